"""HTTP as the programs that dial out need it: limits, deadlines, causes of failures.

It knows neither tasks nor settings.
"""
