//! The devices of a Q35 machine that EDK II firmware looks for besides PCI and the serial port (EDK II: OvmfPkg),
//! and what it finds in them.

use std::fmt;
use std::io::Write;

use thiserror::Error;

use crate::acpi::{self, Platform};
use crate::direct_boot::Payload;
use crate::dma::SharedMemory;
use crate::fw_cfg::{self, FwCfg, key};
use crate::memory_map::ram;
use crate::power::Power;
use crate::{acpi_loader, fw_cfg_dma, pm_timer};

/// I/O port that takes the firmware's debug output; reading gives a byte by which firmware knows it.
const DEBUG: u16 = 0x402;
const DEBUG_THERE: u32 = 0xE9;
/// System control port A: bit 1 lets address line 20 through, bit 0 resets.
const CONTROL_A: u16 = 0x92;
const A20: u32 = 1 << 1;
/// Reset control of the chipset: bit 2 resets.
const RESET_CONTROL: u16 = 0xCF9;
/// The keyboard controller's command port, where the only command is to pull the reset line.
const KEYBOARD_COMMAND: u16 = 0x64;
const PULL_RESET: u32 = 0xFE;
/// PM1_CNT of the ACPI block where EDK II places it: bit 13 with sleep type 0 (bits 12:10) switches off.
const PM1_CONTROL: u16 = 0x604;
const SLEEP_ENABLE: u32 = 1 << 13;
const SLEEP_TYPE: u32 = 7 << 10;

/// etc/system-states: a byte for each of S0 to S5, bit 7 says that it exists. S0, S4 and S5 do.
const SYSTEM_STATES: [u8; 6] = [0x80, 0, 0, 1, 0x82, 0x80];
/// Type of RAM in a list of memory ranges (ACPI 6.5, 15).
const E820_RAM: u32 = 1;

/// Where the sizes lie in a bzImage (Linux: Documentation/arch/x86/boot.rst).
const HDRS: std::ops::Range<usize> = 0x202..0x206;
const SETUP_SECTORS: usize = 0x1F1;

/// What the firmware is told of its machine.
pub struct FirmwareConfig<'a> {
    pub vcpus: u32,
    /// Bytes.
    pub memory: u64,
    /// Frequency of the guest's TSC.
    pub tsc_khz: u64,
    /// The kernel to start, an EFI application; without one the firmware looks for boot devices.
    pub payload: Option<Payload<'a>>,
    /// Named fw_cfg files.
    pub files: Vec<(String, Vec<u8>)>,
    /// Where its debug output goes.
    pub log: Box<dyn Write + Send>,
}

/// Why the firmware cannot be told.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum FirmwareError {
    #[error("{0} has {1} bytes, more than 32 bits can tell the firmware")]
    TooLong(&'static str, usize),
    #[error("the command line contains a NUL byte")]
    CommandLineNul,
    #[error("the fw_cfg name {0:?} is empty, longer than {max} bytes or not ASCII", max = fw_cfg::MAX_NAME)]
    Name(String),
}

/// The devices together.
pub struct FirmwareDevices {
    fw_cfg: FwCfg,
    /// The DMA descriptor's address as far as it was written, and whether it waits to be served.
    descriptor: u64,
    transfer_waits: bool,
    tsc_khz: u64,
    log: Box<dyn Write + Send>,
    power: Option<Power>,
}

impl fmt::Debug for FirmwareDevices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FirmwareDevices")
            .field("fw_cfg", &self.fw_cfg)
            .field("power", &self.power)
            .finish_non_exhaustive()
    }
}

impl FirmwareDevices {
    pub fn new(config: FirmwareConfig<'_>) -> Result<FirmwareDevices, FirmwareError> {
        let ram = ram(config.memory);
        let mut fw_cfg = FwCfg::new();
        fw_cfg.item(key::UUID, vec![0; 16]);
        fw_cfg.item(key::RAM_SIZE, config.memory.to_le_bytes().to_vec());
        fw_cfg.item(key::NO_GRAPHICS, vec![1, 0]);
        fw_cfg.item(key::BOOT_MENU, vec![0, 0]);
        for key in [key::CPUS, key::MAX_CPUS] {
            fw_cfg.item(key, (config.vcpus as u16).to_le_bytes().to_vec());
        }
        let mut e820 = Vec::new();
        for range in &ram {
            e820.extend(range.start.to_le_bytes());
            e820.extend((range.end - range.start).to_le_bytes());
            e820.extend(E820_RAM.to_le_bytes());
        }
        fw_cfg.file("etc/e820", e820);
        fw_cfg.file("etc/system-states", SYSTEM_STATES.to_vec());
        let platform = Platform {
            vcpus: config.vcpus,
            firmware: None,
        };
        let acpi = acpi_loader::files(acpi::tables(0, platform));
        fw_cfg.file(acpi_loader::RSDP, acpi.rsdp);
        fw_cfg.file(acpi_loader::TABLES, acpi.tables);
        fw_cfg.file(acpi_loader::SCRIPT, acpi.script);
        if let Some(payload) = config.payload {
            put_payload(&mut fw_cfg, payload)?;
        }
        for (name, bytes) in config.files {
            if name.is_empty() || name.len() > fw_cfg::MAX_NAME || !name.is_ascii() {
                return Err(FirmwareError::Name(name));
            }
            fw_cfg.file(&name, bytes);
        }
        Ok(FirmwareDevices {
            fw_cfg,
            descriptor: 0,
            transfer_waits: false,
            tsc_khz: config.tsc_khz,
            log: config.log,
            power: None,
        })
    }

    /// What was asked of the platform through these devices.
    pub fn power(&self) -> Option<Power> {
        self.power
    }

    /// Whether a transfer waits for [`serve`](Self::serve).
    pub fn transfer_waits(&self) -> bool {
        self.transfer_waits
    }

    /// Does a transfer that waits.
    pub fn serve(&mut self, memory: &dyn SharedMemory) {
        if std::mem::take(&mut self.transfer_waits) {
            let descriptor = std::mem::take(&mut self.descriptor);
            fw_cfg_dma::transfer(&mut self.fw_cfg, memory, descriptor);
        }
    }

    /// A read of one of their ports when the guest's TSC is at `tsc`; `None` for any other.
    pub fn read(&mut self, port: u16, size: u8, tsc: u64) -> Option<u32> {
        Some(match (port, size) {
            (fw_cfg::DATA, 1) => self.fw_cfg.next_byte().into(),
            (fw_cfg_dma::ADDRESS_HIGH | fw_cfg_dma::ADDRESS_LOW, 4) => {
                let half = usize::from(port - fw_cfg_dma::ADDRESS_HIGH);
                let [a, b, c, d] = [0, 1, 2, 3].map(|i| fw_cfg_dma::SIGNATURE[half + i]);
                u32::from_le_bytes([a, b, c, d])
            }
            (pm_timer::PORT, 4) => pm_timer::count(tsc, self.tsc_khz),
            (PM1_CONTROL, 2) | (RESET_CONTROL, 1) => 0,
            (CONTROL_A, 1) => A20,
            (DEBUG, 1) => DEBUG_THERE,
            _ => return None,
        })
    }

    /// A write; false if the port is none of theirs.
    pub fn write(&mut self, port: u16, size: u8, value: u32) -> bool {
        match (port, size) {
            (fw_cfg::SELECTOR, 2) => self.fw_cfg.select(value as u16),
            (fw_cfg_dma::ADDRESS_HIGH, 4) => {
                self.descriptor = u64::from(value.swap_bytes()) << 32;
            }
            (fw_cfg_dma::ADDRESS_LOW, 4) => {
                self.descriptor |= u64::from(value.swap_bytes());
                self.transfer_waits = true;
            }
            // A log that cannot be written is lost; the guest goes on.
            (DEBUG, 1) => drop(self.log.write_all(&[value as u8])),
            (CONTROL_A, 1) if value & 1 == 0 => {}
            (RESET_CONTROL, 1) if value & 1 << 2 == 0 => {}
            (PM1_CONTROL, 2) if value & (SLEEP_ENABLE | SLEEP_TYPE) != SLEEP_ENABLE => {}
            (PM1_CONTROL, 2) => self.power = Some(Power::Off),
            (CONTROL_A | RESET_CONTROL, 1) => self.power = Some(Power::Reset),
            (KEYBOARD_COMMAND, 1) if value == PULL_RESET => self.power = Some(Power::Reset),
            _ => return false,
        }
        true
    }
}

/// The kernel as QEMU hands it over: a bzImage's setup part apart from the rest, any other file as a whole. No byte
/// is changed: the firmware measures the file.
fn put_payload(fw_cfg: &mut FwCfg, payload: Payload<'_>) -> Result<(), FirmwareError> {
    let kernel = payload.kernel;
    let is_bzimage = kernel.get(HDRS) == Some(b"HdrS");
    let setup = match kernel.get(SETUP_SECTORS) {
        Some(&sectors) if is_bzimage => {
            let sectors = if sectors == 0 {
                4
            } else {
                usize::from(sectors)
            };
            ((sectors + 1) * 512).min(kernel.len())
        }
        _ => 0,
    };
    if payload.command_line.contains('\0') {
        return Err(FirmwareError::CommandLineNul);
    }
    let (setup, kernel) = kernel.split_at(setup);
    let mut put = |what, size_key, data_key, bytes: Vec<u8>| {
        let size = u32::try_from(bytes.len());
        let size = size.map_err(|_| FirmwareError::TooLong(what, bytes.len()))?;
        fw_cfg.item(size_key, size.to_le_bytes().to_vec());
        fw_cfg.item(data_key, bytes);
        Ok(())
    };
    use key::*;
    put("the kernel", SETUP_SIZE, SETUP_DATA, setup.to_vec())?;
    put("the kernel", KERNEL_SIZE, KERNEL_DATA, kernel.to_vec())?;
    let initrd = payload.initrd.to_vec();
    put("the initrd", INITRD_SIZE, INITRD_DATA, initrd)?;
    let mut line = payload.command_line.as_bytes().to_vec();
    line.push(0);
    put(
        "the command line",
        COMMAND_LINE_SIZE,
        COMMAND_LINE_DATA,
        line,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn devices(kernel: &[u8]) -> FirmwareDevices {
        FirmwareDevices::new(FirmwareConfig {
            vcpus: 4,
            memory: 3 << 30,
            tsc_khz: 1_000_000,
            payload: Some(Payload {
                kernel,
                initrd: b"rd",
                command_line: "quiet",
            }),
            files: vec![("opt/x".to_owned(), b"y".to_vec())],
            log: Box::new(std::io::sink()),
        })
        .expect("it is small")
    }

    fn item(devices: &mut FirmwareDevices, key: u16, length: usize) -> Vec<u8> {
        assert!(devices.write(fw_cfg::SELECTOR, 2, key.into()));
        let byte = |_| devices.read(fw_cfg::DATA, 1, 0).expect("it is there") as u8;
        (0..length).map(byte).collect()
    }

    #[test]
    fn a_bzimage_is_split_at_its_setup_and_whole_again_for_the_reader() {
        let mut kernel = vec![7; 0x1000];
        kernel[HDRS].copy_from_slice(b"HdrS");
        kernel[SETUP_SECTORS] = 3;
        let mut devices = devices(&kernel);
        assert_eq!(item(&mut devices, key::SETUP_SIZE, 4), [0, 8, 0, 0]);
        assert_eq!(item(&mut devices, key::KERNEL_SIZE, 4), [0, 8, 0, 0]);
        let setup = item(&mut devices, key::SETUP_DATA, 0x800);
        let rest = item(&mut devices, key::KERNEL_DATA, 0x800);
        assert_eq!([setup, rest].concat(), kernel);
        assert_eq!(item(&mut devices, key::COMMAND_LINE_DATA, 7), b"quiet\0\0");
        assert_eq!(item(&mut devices, key::CPUS, 2), [4, 0]);
    }

    #[test]
    fn what_is_no_bzimage_is_handed_over_as_a_whole() {
        for kernel in [&b"MZ"[..], &[0; 0x1F1], b""] {
            let mut devices = devices(kernel);
            assert_eq!(item(&mut devices, key::SETUP_SIZE, 4), [0; 4]);
            let size = (kernel.len() as u32).to_le_bytes();
            assert_eq!(item(&mut devices, key::KERNEL_SIZE, 4), size);
        }
        // A setup part that the file does not have.
        let mut cut = vec![0; 0x300];
        cut[HDRS].copy_from_slice(b"HdrS");
        cut[SETUP_SECTORS] = 0xFF;
        assert_eq!(item(&mut devices(&cut), key::SETUP_SIZE, 4), [0, 3, 0, 0]);
    }

    #[test]
    fn the_platform_goes_down_as_firmware_asks_for_it() {
        let asked = |port, size, value| {
            let mut devices = devices(b"");
            assert!(devices.write(port, size, value));
            devices.power()
        };
        assert_eq!(asked(PM1_CONTROL, 2, 1 << 13), Some(Power::Off));
        assert_eq!(asked(PM1_CONTROL, 2, 1 << 13 | 1 << 10), None);
        assert_eq!(asked(PM1_CONTROL, 2, 0), None);
        assert_eq!(asked(RESET_CONTROL, 1, 6), Some(Power::Reset));
        assert_eq!(asked(KEYBOARD_COMMAND, 1, 0xFE), Some(Power::Reset));
        assert_eq!(asked(CONTROL_A, 1, 2), None);
        assert_eq!(asked(CONTROL_A, 1, 3), Some(Power::Reset));
        assert!(!devices(b"").write(KEYBOARD_COMMAND, 1, 0xAA));
        assert!(!devices(b"").write(0xCF8, 4, 0x8000_0000));
    }

    #[test]
    fn names_that_fw_cfg_cannot_list_are_refused() {
        for name in [String::new(), "x".repeat(56), "é".to_owned()] {
            let refused = FirmwareDevices::new(FirmwareConfig {
                vcpus: 1,
                memory: 1 << 30,
                tsc_khz: 1,
                payload: None,
                files: vec![(name.clone(), Vec::new())],
                log: Box::new(std::io::sink()),
            });
            assert_eq!(refused.err(), Some(FirmwareError::Name(name)));
        }
    }
}
