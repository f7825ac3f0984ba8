"""One rank's part of a model: a part of each layer, or some of the layers."""
