//! Which guest: what is loaded into the TD and where its memory lies.

use std::fs::File;
use std::io::Read;
use std::ops::Range;
use std::path::Path;

use tdvf::Image;
use tdx_devices::direct_boot::{self, DirectBootError, Payload};
use tdx_devices::memory_map;
use x86_arch::Gpa;

use super::options::Args;
use crate::cli::Failure;

/// More than any firmware has.
const MAX_FIRMWARE: u64 = 256 << 20;
const MORE: &str = "; give it more with --memory";

/// A guest ready to be loaded.
pub struct Guest {
    pub name: String,
    firmware: Vec<u8>,
    /// Content of the TD_HOB section.
    pub hob: Vec<u8>,
    pub ram: Vec<Range<u64>>,
    /// Memory beside the firmware, which the module does not measure.
    pub memory: Vec<(Gpa, Vec<u8>)>,
    /// RTMRs that the guest's firmware should leave behind, where they are known.
    pub rtmrs: [Option<[u8; 48]>; 4],
}

impl Guest {
    /// Reads the files that the options name and lays them out.
    pub fn new(args: &Args) -> Result<Guest, Failure> {
        if let (Some(kernel), None) = (&args.kernel, &args.firmware) {
            return direct(args, kernel);
        }
        let (name, firmware) = match &args.firmware {
            Some(path) => (path.display().to_string(), read(path, MAX_FIRMWARE)?),
            None => {
                let guest = guest_images::EMBEDDED;
                (format!("the {} guest", guest.name), guest.tdvf.to_vec())
            }
        };
        let image =
            Image::parse(&firmware).map_err(|why| Failure::input(format!("{name}: {why}")))?;
        let ram = memory_map::ram(args.memory.0);
        let hob = tdx_host::td_hob(&image, &ram)
            .map_err(|why| Failure::input(format!("{name}: {why}")))?;
        for section in image.sections() {
            let range = section.memory_address..section.end();
            let inside = |ram: &Range<u64>| ram.start <= range.start && range.end <= ram.end;
            let apart = |ram: &Range<u64>| range.end <= ram.start || ram.end <= range.start;
            if !ram.iter().any(inside) && !ram.iter().all(apart) {
                return Err(Failure::input(format!(
                    "{name}: section {} needs memory at {:#x}..{:#x}; give the guest more with --memory",
                    section.index, range.start, range.end
                )));
            }
        }
        Ok(Guest {
            name,
            hob,
            ram,
            memory: Vec::new(),
            rtmrs: [None; 4],
            firmware,
        })
    }

    /// The firmware, whose metadata was checked.
    pub fn image(&self) -> Result<Image<'_>, Failure> {
        Image::parse(&self.firmware).map_err(|why| Failure::input(format!("{}: {why}", self.name)))
    }
}

/// A kernel under the project's own firmware.
fn direct(args: &Args, path: &Path) -> Result<Guest, Failure> {
    let memory = args.memory.0;
    let kernel = read(path, memory)?;
    let initrd = args.initrd.as_deref();
    let initrd_bytes = initrd.map_or(Ok(Vec::new()), |path| read(path, memory))?;
    let command_line = args.command_line();
    let payload = Payload {
        kernel: &kernel,
        initrd: &initrd_bytes,
        command_line: &command_line,
    };
    let plan = direct_boot::plan(payload, memory, args.cpus.into()).map_err(|why| {
        let (file, advice) = match why {
            DirectBootError::Initrd { .. } => (initrd.unwrap_or(path), MORE),
            DirectBootError::Memory { .. } => (path, MORE),
            _ => (path, ""),
        };
        Failure::input(format!("{}: {why}{advice}", file.display()))
    })?;
    let mut rtmrs = [None; 4];
    for (register, _, bytes) in &plan.measured {
        if let Some(rtmr) = rtmrs.get_mut(usize::from(*register)) {
            *rtmr = Some(extend(rtmr.unwrap_or([0; 48]), bytes));
        }
    }
    Ok(Guest {
        name: path.display().to_string(),
        firmware: guest_images::TDFW.tdvf.to_vec(),
        hob: plan.hob,
        ram: plan.ram,
        memory: plan.memory.into_iter().map(|m| (m.gpa, m.bytes)).collect(),
        rtmrs,
    })
}

/// An RTMR after an event with these bytes: SHA-384 of the register and of the event's SHA-384.
fn extend(rtmr: [u8; 48], event: &[u8]) -> [u8; 48] {
    use sha2::{Digest, Sha384};
    let digest = Sha384::digest(event);
    Sha384::new()
        .chain_update(rtmr)
        .chain_update(digest)
        .finalize()
        .into()
}

/// A file of at most `most` bytes.
pub fn read(path: &Path, most: u64) -> Result<Vec<u8>, Failure> {
    let wrong = |why: &dyn std::fmt::Display| Failure::input(format!("{}: {why}", path.display()));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|why| wrong(&why))?;
    let length = file.take(most + 1).read_to_end(&mut bytes);
    if length.map_err(|why| wrong(&why))? as u64 > most {
        return Err(wrong(&format_args!(
            "larger than the {most} bytes that there is room for"
        )));
    }
    Ok(bytes)
}
