//! The host side on a platform in software: what its firmware and MSRs would tell a host.

use std::sync::Arc;

use tdx_call::SeamcallLp;
use tdx_host::{Host, HostError, HostLayout, Lp};
use tdx_platform::{Platform, PlatformMemory};

/// Brings the platform's module up on these processors, with all convertible memory given to TDX.
pub fn bring_up<L: SeamcallLp>(
    platform: &Arc<Platform>,
    lps: &mut [Lp<L>],
) -> Result<Host<PlatformMemory>, HostError> {
    let machine = platform.hardware().config();
    let (first, last) = machine.private_key_ids;
    let layout = HostLayout {
        memory: machine.cmrs.clone(),
        private_keys: first..last + 1,
        keyid_bits: machine.keyid_bits() as u8,
    };
    Host::bring_up(platform.memory(), &layout, lps)
}
