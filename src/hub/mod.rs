//! Topics, logs and cursors.
