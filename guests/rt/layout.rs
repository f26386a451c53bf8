//! Guest physical addresses of the image's parts; guests/image.ld has the same numbers.

/// The TD HOB, written by the VMM.
pub const HOB_BASE: u64 = 0x81_0000;
/// Start of the measured part.
pub const MAIN_BASE: u64 = 0x82_0000;
/// Start of the temporary memory; its first page is the mailbox.
pub const TEMP_BASE: u64 = 0x88_0000;
/// From the HOB to here the firmware's memory stays reserved for parked processors.
pub const FIRMWARE_END: u64 = 0x90_0000;
/// Where the page tables map the shared half of guest memory's first GiB.
pub const SHARED_WINDOW: u64 = 1 << 39;
