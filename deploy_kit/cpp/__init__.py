"""A policy as one C++17 header without a runtime: what is computed, how it is written, compared, compiled and called.

`program` says what a network computes, `header` writes it as C++, `reading` compares a header with what would have
been written, `compiler` and `library` build and call one. Export writes the header, verify judges it.
"""
