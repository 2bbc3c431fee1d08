"""Alice: anatomically consistent masked modelling of volumes with a momentum teacher."""
