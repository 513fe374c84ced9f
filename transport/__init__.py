"""HTTP as the two programs that dial out need it. It knows neither tasks nor settings."""
