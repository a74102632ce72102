"""Published data sets, as their makers pack them, to the folders that recipes read: one file per data set."""
