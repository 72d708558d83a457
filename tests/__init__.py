"""Tests: folders mirror the product; contract/, sim/ and chaos/ go across it."""
