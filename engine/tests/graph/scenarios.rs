//! Scenarios of the reference engine's tests, by their net effect.
