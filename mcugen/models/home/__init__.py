"""The model that ships with mcugen: commands in plain English to the actions of a small house."""
