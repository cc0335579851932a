"""Configuration: files in text format and flags in, frozen values out."""
