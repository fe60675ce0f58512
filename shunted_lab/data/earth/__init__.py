"""Satellite colour with land-cover labels: the data set that ships with the package. See README.md beside this file."""
