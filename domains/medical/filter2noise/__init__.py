"""Filter2Noise: the noise of one CT image removed by a filter that is fitted to this image alone."""
