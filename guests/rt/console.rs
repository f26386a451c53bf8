//! The first serial port, by TDVMCALL.

use core::fmt::{self, Write};

use super::vmcall;

const COM1: u16 = 0x3F8;

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            if byte == b'\n' {
                vmcall::out(COM1, 1, b'\r'.into());
            }
            vmcall::out(COM1, 1, byte.into());
        }
        Ok(())
    }
}

/// Prints a line.
pub fn line(text: fmt::Arguments<'_>) {
    let _ = Serial.write_fmt(text);
    let _ = Serial.write_str("\n");
}
