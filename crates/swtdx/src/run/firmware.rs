//! What `--firmware` finds in its machine.

use std::io;
use std::path::{Path, PathBuf};

use tdx_devices::direct_boot::Payload;
use tdx_devices::firmware::{FirmwareConfig, FirmwareDevices};

use super::guest::read;
use super::options::Args;
use crate::cli::Failure;

/// The devices that firmware given by the user wants; nothing for our own.
pub fn devices(args: &Args, tsc_khz: u64) -> Result<Option<FirmwareDevices>, Failure> {
    if args.firmware.is_none() {
        return Ok(None);
    }
    let read = |path: &Path| read(path, args.memory.0);
    let read_some = |path: &Option<PathBuf>| path.as_deref().map_or(Ok(Vec::new()), read);
    let kernel = read_some(&args.kernel)?;
    let initrd = read_some(&args.initrd)?;
    let command_line = args.command_line();
    let files = args.fw_cfg.iter();
    let files = files
        .map(|file| Ok((file.name.clone(), read(&file.path)?)))
        .collect::<Result<_, Failure>>()?;
    let devices = FirmwareDevices::new(FirmwareConfig {
        vcpus: args.cpus.into(),
        memory: args.memory.0,
        tsc_khz,
        payload: args.kernel.as_ref().map(|_| Payload {
            kernel: &kernel,
            initrd: &initrd,
            command_line: &command_line,
        }),
        files,
        log: match &args.firmware_log {
            Some(path) => Box::new(io::BufWriter::new(super::create(path)?)),
            None => Box::new(io::sink()),
        },
    });
    devices.map(Some).map_err(Failure::input)
}
