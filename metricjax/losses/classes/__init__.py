"""Losses with class weights: a sample should be near to the weights of its class."""
