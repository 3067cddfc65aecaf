"""The second model that ships with mcugen: little stories, told from a few words or from none."""
