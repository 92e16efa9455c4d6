"""Pictures and videos: read and written, with nothing known of data sets or models."""
