//! A host on a platform, for the tests that build TDs.
#![allow(dead_code, reason = "each test uses its part")]

use std::sync::Arc;

use tdx_call::Direct;
use tdx_host::{Host, HostLayout, Lp, Td, TdConfig, Vcpu};
use tdx_platform::{Guests, Platform, PlatformConfig, PlatformLp, PlatformMemory};

pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

pub struct Bench {
    pub platform: Arc<Platform>,
    pub host: Host<PlatformMemory>,
    pub lps: Vec<Lp<Direct<PlatformLp>>>,
}

/// A platform that is brought up, with all but its lowest 16 MiB given to TDX.
pub fn brought_up(config: PlatformConfig, guests: Guests) -> Bench {
    let private = config.machine.private_key_ids;
    let free = |cmr: &std::ops::Range<u64>| cmr.start.max(16 * MIB)..cmr.end;
    let memory = config.machine.cmrs.iter().map(free).collect();
    let packages: Vec<_> = config.machine.lps.iter().map(|lp| lp.package).collect();
    let platform = Platform::new(config, guests);
    let lps = platform.lps().into_iter().zip(packages);
    let mut lps: Vec<_> = lps.map(|(seam, package)| Lp { seam, package }).collect();
    let layout = HostLayout {
        memory,
        private_keys: private.0..private.1 + 1,
        keyid_bits: 6,
    };
    let host = Host::bring_up(platform.memory(), &layout, &mut lps).expect("bring-up");
    Bench {
        platform,
        host,
        lps,
    }
}

impl Bench {
    pub fn new(packages: u32, lps: u32, ram: u64, guests: Guests) -> Bench {
        brought_up(PlatformConfig::new(packages, lps, ram), guests)
    }

    pub fn vcpu(&mut self, td: &Td) -> Vcpu {
        td.add_vcpu(&self.host, &mut self.lps, 0, 0)
            .expect("a vCPU")
    }

    pub fn td(&mut self, config: TdConfig) -> Td {
        Td::create(&self.host, &mut self.lps, config, || {}).expect("a TD")
    }
}

/// The image `OVMF.inteltdx.fd` of the crate `tdx` 0.1.2, found through `cargo metadata`.
pub fn ovmf() -> Option<Vec<u8>> {
    let image = find_ovmf();
    if image.is_none() {
        println!(
            "SKIPPED OVMF.inteltdx.fd: cargo metadata does not lead to it in the crate tdx 0.1.2"
        );
    }
    image
}

fn find_ovmf() -> Option<Vec<u8>> {
    // Other platforms' crates need not be here.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let metadata = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline"])
        .args(["--filter-platform", &platform])
        .args([
            "--manifest-path",
            concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml"),
        ])
        .output()
        .ok()?;
    let metadata: serde_json::Value = serde_json::from_slice(&metadata.stdout).ok()?;
    let mut packages = metadata["packages"].as_array()?.iter();
    let package = packages.find(|p| p["name"] == "tdx" && p["version"] == "0.1.2")?;
    let manifest = std::path::PathBuf::from(package["manifest_path"].as_str()?);
    std::fs::read(manifest.parent()?.join("tests/data/OVMF.inteltdx.fd")).ok()
}
