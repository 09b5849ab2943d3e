//! pointsman's XDP data plane.
#![no_std]
