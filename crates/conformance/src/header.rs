//! Line 1 of a trace: the platform it was recorded on.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::number::Hex;
use crate::registers::Gprs;

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// Version of the format: 1.
    pub trace: u32,
    pub name: String,
    pub about: String,
    /// The module that was recorded, in words.
    pub module: String,
    pub platform: Platform,
    /// What a register holds at a SEAMCALL that does not name it.
    pub gpr_default: Gprs,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Platform {
    pub lps: u32,
    pub packages: u32,
    pub lp_package: Vec<u32>,
    pub lp_x2apic: Vec<u32>,
    pub phys_addr_bits: u32,
    /// Upper physical-address bits that carry the key ID.
    pub keyid_bits: u32,
    /// First and last.
    pub private_keyids: [u16; 2],
    /// The key ID that the trace gives to TDH.SYS.CONFIG; the trace's own calls carry it.
    pub global_keyid: u16,
    pub cmrs: Vec<PhysRange>,
    pub seamrr: PhysRange,
    pub cache_wb_sub_blocks: u32,
    pub cpuid: Vec<CpuidRow>,
    /// Native MSRs, by address.
    pub msr: MsrValues,
    /// Extension: EBX of CPUID(0xD, 0 and 1) follows XCR0 and IA32_XSS, as on hardware.
    #[serde(default)]
    pub xsave_size_follows_xcr0: bool,
    /// Extension: where physical memory ends, if not at 8 GiB.
    pub memory_end: Option<Hex>,
}

/// MSRs by address.
pub type MsrValues = BTreeMap<MsrAddress, Hex>;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(try_from = "String")]
pub struct MsrAddress(pub u32);

impl TryFrom<String> for MsrAddress {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let address = Hex::parse(&text).and_then(|Hex(n)| u32::try_from(n).ok());
        address
            .map(MsrAddress)
            .ok_or_else(|| format!("{text:?}: expected an MSR address \"0x..\""))
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhysRange {
    pub base: Hex,
    pub size: Hex,
}

/// One row of native CPUID.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(try_from = "[Hex; 6]")]
pub struct CpuidRow {
    pub leaf: u32,
    /// All ones: any sub-leaf.
    pub subleaf: u32,
    /// EAX, EBX, ECX, EDX.
    pub value: [u32; 4],
}

impl TryFrom<[Hex; 6]> for CpuidRow {
    type Error = String;
    fn try_from(row: [Hex; 6]) -> Result<Self, String> {
        let mut words = [0; 6];
        for (word, Hex(n)) in words.iter_mut().zip(row) {
            *word = u32::try_from(n).map_err(|_| format!("{n:#x}: expected a 32-bit number"))?;
        }
        let [leaf, subleaf, value @ ..] = words;
        Ok(CpuidRow {
            leaf,
            subleaf,
            value,
        })
    }
}

impl Header {
    /// Checks what the types do not say.
    pub(crate) fn check(&self) -> Result<(), String> {
        let p = &self.platform;
        let lists = [
            ("lp_package", p.lp_package.len()),
            ("lp_x2apic", p.lp_x2apic.len()),
        ];
        if self.trace != 1 {
            return Err(format!("trace {}: expected format version 1", self.trace));
        }
        if !(1..=4096).contains(&p.lps) || !(1..=64).contains(&p.packages) {
            return Err("expected 1 to 4096 lps and 1 to 64 packages".into());
        }
        for (name, len) in lists {
            if len != p.lps as usize {
                return Err(format!(
                    "{name} has {len} elements: expected one for each of {} lps",
                    p.lps
                ));
            }
        }
        if p.lp_package.iter().any(|&package| package >= p.packages) {
            return Err(format!(
                "lp_package: expected packages below {}",
                p.packages
            ));
        }
        if !(32..=52).contains(&p.phys_addr_bits) || p.keyid_bits > p.phys_addr_bits - 32 {
            return Err(
                "expected phys_addr_bits 32 to 52 and at least 32 of them without key ID".into(),
            );
        }
        check_ranges(&p.cmrs)?;
        check_ranges(&[p.seamrr])
    }
}

/// No range may pass the end of the 64-bit space.
pub(crate) fn check_ranges(ranges: &[PhysRange]) -> Result<(), String> {
    match ranges
        .iter()
        .find(|r| r.base.0.checked_add(r.size.0).is_none())
    {
        None => Ok(()),
        Some(r) => Err(format!(
            "range {:#x}+{:#x}: expected an end below 2^64",
            r.base.0, r.size.0
        )),
    }
}
