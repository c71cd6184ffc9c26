"""Tests of node/media: pictures made with code, real codecs, real worker processes."""
