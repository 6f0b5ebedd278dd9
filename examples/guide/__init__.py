"""The guide: pages that the tests run, and the picture of the front page."""
