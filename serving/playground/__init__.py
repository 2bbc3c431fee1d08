"""The playground: a page on which a file is seen, embedded and set beside known examples."""
