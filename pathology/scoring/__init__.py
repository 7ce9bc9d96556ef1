"""Scoring a folder of slides: the rooms of the house put to work one after the other."""
