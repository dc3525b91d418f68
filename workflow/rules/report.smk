"""Put a study's figures into a report.
"""


def report_of(name):
    return []
