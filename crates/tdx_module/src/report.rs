//! TDREPORT: what a TD and its platform are, under the MAC of the machine it was made on (guest-leaves.md 7.2).
//!
//! Real hardware keeps the MAC key in the CPU. Here it is the machine's ([`Machine::report_key`]): reports verify on
//! the machine that made them, and no quoting enclave of Intel's will take one.

use crate::lock::Side;
use crate::lock_order::{Lock, Order};
use crate::machine::Machine;
use crate::module::Module;
use crate::profile::Profile;
use crate::td::{Rtmrs, Td};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256, Sha384};

/// Bytes of a TDREPORT.
pub const TD_REPORT: usize = 1024;
/// Bytes of its first part.
pub const REPORT_MAC_STRUCT: usize = 256;
/// Bytes under the MAC.
const MACED: usize = 224;
const TEE_TCB_INFO: usize = 256;
/// Bytes of TEE_TCB_INFO that its hash covers.
const TEE_TCB_INFO_HASHED: usize = 239;
const TD_INFO: usize = 512;
/// Security version of the CPU, as the machine has none of its own.
const CPUSVN: [u8; 16] = [1; 16];
/// TEE_TCB_INFO.VALID: every populated word, TEE_TCB_SVN2 included.
const VALID: u64 = 0x3_01FF;

/// What TDG.MR.VERIFYREPORT says of a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    Good,
    /// Made on this machine, with another CPUSVN.
    OtherCpusvn,
    Bad,
}

/// The 512 bytes of TDINFO.
pub fn td_info(td: &Td, rtmr: &Rtmrs) -> [u8; 512] {
    let config = &td.config;
    let mut info = [0; 512];
    info[..8].copy_from_slice(&config.attributes.to_le_bytes());
    info[8..16].copy_from_slice(&config.xfam.0.to_le_bytes());
    let hashes = [
        td.measurement.mrtd(),
        config.mrconfigid,
        config.mrowner,
        config.mrownerconfig,
    ];
    for (to, hash) in info[16..]
        .chunks_exact_mut(48)
        .zip(hashes.iter().chain(&rtmr.values))
    {
        to.copy_from_slice(&hash.0);
    }
    info[400..448].copy_from_slice(&td.servtd_hash.0);
    info
}

/// The report of a TD, with the caller's data in it.
pub fn td_report<M: Machine>(
    module: &Module<M>,
    td: &Td,
    rtmr: &Rtmrs,
    data: &[u8; 64],
    order: &Order,
) -> [u8; TD_REPORT] {
    let mut report = [0; TD_REPORT];
    let (mac_struct, rest) = report.split_at_mut(TEE_TCB_INFO);
    let (tcb, info) = rest.split_at_mut(TD_INFO - TEE_TCB_INFO);
    fill_tcb(tcb, module.profile());
    info.copy_from_slice(&td_info(td, rtmr));
    mac_struct[0] = 0x81;
    mac_struct[2] = servtd_bound(td, order) as u8;
    mac_struct[16..32].copy_from_slice(&CPUSVN);
    mac_struct[32..80].copy_from_slice(&Sha384::digest(&tcb[..TEE_TCB_INFO_HASHED]));
    mac_struct[80..128].copy_from_slice(&Sha384::digest(&*info));
    mac_struct[128..192].copy_from_slice(data);
    let mac = mac(&module.machine().report_key(), &mac_struct[..MACED]);
    mac_struct[MACED..].copy_from_slice(&mac);
    report
}

/// Whether this machine made the REPORTMACSTRUCT.
pub fn verify<M: Machine + ?Sized>(machine: &M, mac_struct: &[u8; REPORT_MAC_STRUCT]) -> Verdict {
    let expected = mac(&machine.report_key(), &mac_struct[..MACED]);
    if mac_struct[0] != 0x81 || expected != mac_struct[MACED..] {
        return Verdict::Bad;
    }
    match mac_struct[16..32] == CPUSVN {
        true => Verdict::Good,
        false => Verdict::OtherCpusvn,
    }
}

fn servtd_bound(td: &Td, order: &Order) -> bool {
    let binding = order.hold(Lock::ServtdBindings, td.servtd.shared(Side::Guest));
    binding.is_ok_and(|binding| binding.state != crate::servtd::BindState::NotBound)
}

/// The identity of this software module.
fn fill_tcb(tcb: &mut [u8], profile: &Profile) {
    tcb[..8].copy_from_slice(&VALID.to_le_bytes());
    let svn = [profile.minor as u8, profile.major as u8];
    tcb[8..10].copy_from_slice(&svn);
    tcb[128..130].copy_from_slice(&svn);
    let name = Sha384::new()
        .chain_update("swtdx module ")
        .chain_update(profile.name);
    tcb[24..72].copy_from_slice(&name.finalize());
}

fn mac(key: &[u8; 32], bytes: &[u8]) -> [u8; 32] {
    // HMAC takes a key of any length.
    Hmac::<Sha256>::new_from_slice(key)
        .map(|mac| mac.chain_update(bytes).finalize().into_bytes().into())
        .unwrap_or_default()
}
