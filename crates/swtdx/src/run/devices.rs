//! The devices on the guest's PCI bus that the options ask for.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tdx_devices::PCI_SLOTS;
use tdx_devices::virtio::{self, Block};

use super::options::Args;
use crate::cli::Failure;

/// What the guest's console is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum ConsoleDevice {
    Serial,
    Virtio,
}

/// A file that is to be a disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskFile {
    pub path: PathBuf,
    pub read_only: bool,
}

impl FromStr for DiskFile {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (path, read_only) = match text.strip_suffix(",ro") {
            Some(path) => (path, true),
            None => (text, false),
        };
        if path.is_empty() {
            return Err("a file, or FILE,ro".to_owned());
        }
        Ok(DiskFile {
            path: path.into(),
            read_only,
        })
    }
}

impl fmt::Display for DiskFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.path.display().to_string())?;
        f.write_str(if self.read_only { ",ro" } else { "" })
    }
}

type Output = Box<dyn Write + Send>;

/// A writer that several devices write to.
#[derive(Clone)]
struct Shared(Arc<Mutex<Output>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        output.flush()
    }
}

/// The serial port's output, and the devices in their order on the bus: console, random numbers, disks.
pub fn on_the_bus(
    args: &Args,
    console: Output,
) -> Result<(Output, Vec<Box<dyn virtio::Device>>), Failure> {
    let mut devices: Vec<Box<dyn virtio::Device>> = Vec::new();
    let mut serial = console;
    if args.console_device == ConsoleDevice::Virtio {
        let shared = Shared(Arc::new(Mutex::new(serial)));
        devices.push(Box::new(virtio::Console::new(Box::new(shared.clone()))));
        serial = Box::new(shared);
    }
    let hvc = args
        .append
        .iter()
        .any(|words| words.contains("console=hvc"));
    if hvc && args.console_device == ConsoleDevice::Serial && !args.quiet {
        eprintln!(
            "swtdx: the kernel is to print on hvc0, which only --console-device virtio gives it"
        );
    }
    if args.rng {
        devices.push(Box::new(virtio::Entropy::new(args.seed)));
    }
    if args.disk.len() > PCI_SLOTS - 2 {
        let why = format!("--disk: there is room for {} disks", PCI_SLOTS - 2);
        return Err(Failure::input(why));
    }
    for (number, disk) in args.disk.iter().enumerate() {
        let block = Block::open(&disk.path, disk.read_only, &format!("swtdx-{number}"))
            .map_err(|why| Failure::input(format!("--disk {disk}: {why}")))?;
        devices.push(Box::new(block));
    }
    Ok((serial, devices))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_a_file_and_perhaps_ro() {
        let disk: DiskFile = "a,b.img,ro".parse().expect("a disk");
        assert_eq!(disk.path, PathBuf::from("a,b.img"));
        assert!(disk.read_only);
        assert_eq!(disk.to_string(), "a,b.img,ro");
        let disk: DiskFile = "a.img".parse().expect("a disk");
        assert!(!disk.read_only);
        for text in ["", ",ro"] {
            assert!(text.parse::<DiskFile>().is_err(), "{text:?}");
        }
    }
}
