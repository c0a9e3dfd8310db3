"""Losses with class weights: they pull each sample to the weights of its class."""
