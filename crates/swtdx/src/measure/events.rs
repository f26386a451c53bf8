//! What firmware extends into the RTMRs when the VMM hands it a kernel.

use serde::{Serialize, Serializer};
use sha2::{Digest, Sha384 as Hash};
use tdx_abi::Sha384;

use super::authenticode;

/// One extension of an RTMR.
#[derive(Serialize)]
pub struct Event {
    pub register: u8,
    pub name: String,
    #[serde(serialize_with = "as_hex")]
    pub digest: Sha384,
}

fn as_hex<S: Serializer>(digest: &Sha384, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&super::hex(digest))
}

/// MRTD, and the events behind the RTMRs that are predicted.
pub struct Registers {
    pub mrtd: Sha384,
    pub events: Vec<Event>,
}

impl Registers {
    /// The value of an RTMR after all its events; `None` where it is not predicted.
    pub fn rtmr(&self, index: u8) -> Option<Sha384> {
        match index {
            3 => Some([0; 48]),
            _ if self.events.iter().any(|event| event.register == index) => {
                self.values(index).last().copied()
            }
            _ => None,
        }
    }
    /// The value of an RTMR if the firmware measured no separator into it.
    pub fn without_separator(&self, index: u8) -> Sha384 {
        let events = self.events.iter();
        events
            .filter(|event| event.register == index && event.name != SEPARATOR)
            .fold([0; 48], |value, event| extend(value, event.digest))
    }
    /// The values that an RTMR takes, from zero on, one for each of its events.
    pub fn values(&self, index: u8) -> Vec<Sha384> {
        let mut values = vec![[0; 48]];
        for event in self.events.iter().filter(|event| event.register == index) {
            values.push(extend(values[values.len() - 1], event.digest));
        }
        values
    }
}

/// TDG.MR.RTMR.EXTEND.
pub fn extend(old: Sha384, digest: Sha384) -> Sha384 {
    let mut hash = Hash::new();
    hash.update(old);
    hash.update(digest);
    hash.finalize().into()
}

fn event(register: u8, name: &str, bytes: &[u8]) -> Event {
    Event {
        register,
        name: name.to_owned(),
        digest: Hash::digest(bytes).into(),
    }
}

/// What the project's own firmware (guests/tdfw) measures, as `swtdx run` lays a kernel out for it.
pub fn direct_boot(measured: &[(u8, &'static str, Vec<u8>)]) -> Vec<Event> {
    measured
        .iter()
        .map(|(register, name, bytes)| event(*register, name, bytes))
        .collect()
}

/// Which EDK II the firmware was built from: they differ in what they measure (OvmfPkg/Tcg/TdTcg2Dxe).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Edk2 {
    /// edk2-stable202411 and later: the separator before the boot loader is in RTMR 1
    #[default]
    Stable202411,
    /// Before that: it is in RTMR 0 alone
    Before202411,
}

/// What the separator is called.
pub const SEPARATOR: &str = "separator";

/// EDK II firmware and Linux's EFI stub, when the VMM hands the kernel over by fw_cfg.
///
/// RTMR 1: the kernel as a PE image, then the actions that the TCG PC Client profile names. RTMR 2: the load options
/// (UTF-16 with a final zero, and `initrd=initrd` where there is one) and the initrd.
pub fn edk2(
    kernel: &[u8],
    append: &str,
    initrd: Option<&[u8]>,
    version: Edk2,
) -> Result<Vec<Event>, authenticode::PeError> {
    let options = match (initrd, append) {
        (None, append) => append.to_owned(),
        (Some(_), append) => format!("{append} initrd=initrd"),
    };
    let utf16: Vec<u8> = options
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let action = |text: &str| event(1, &format!("action: {text}"), text.as_bytes());
    let mut events = vec![
        Event {
            register: 1,
            name: "kernel (Authenticode)".to_owned(),
            digest: authenticode::sha384(kernel)?,
        },
        action("Calling EFI Application from Boot Option"),
        event(1, SEPARATOR, &[0; 4]),
        action("Exit Boot Services Invocation"),
        action("Exit Boot Services Returned with Success"),
        event(2, &format!("load options: {options}"), &utf16),
    ];
    events.extend(initrd.map(|initrd| event(2, "initrd", initrd)));
    if version == Edk2::Before202411 {
        events.retain(|event| event.name != SEPARATOR);
    }
    Ok(events)
}
