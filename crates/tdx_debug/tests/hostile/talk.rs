//! A DEBUG TD behind a server, and a client that sends given bytes and leaves.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use tdx_call::Direct;
use tdx_debug::{Leave, Owner, Parts, Slice, Stream, Which, serve};
use tdx_host::{Host, HostError, HostLayout, Lp, Td, TdConfig, Vcpu};
use tdx_platform::{Guests, Platform, PlatformConfig, PlatformLp, PlatformMemory};
use x86_arch::{ExitReason, VmExit};

const MIB: u64 = 1 << 20;
/// Slices until the guest powers off.
const LIFE: u32 = 200;

type Seam = Direct<PlatformLp>;

struct Debugged {
    host: Host<PlatformMemory>,
    lps: Vec<Lp<Seam>>,
    td: Td,
    vcpus: Vec<Vcpu>,
    slices: u32,
}

impl Owner for Debugged {
    type Memory = PlatformMemory;
    type Lp = Seam;

    fn parts(&mut self) -> Parts<'_, PlatformMemory, Seam> {
        Parts {
            host: &self.host,
            td: &self.td,
            lps: &mut self.lps,
            vcpus: &mut self.vcpus,
        }
    }
    fn lp_of(&self, vcpu: usize) -> usize {
        vcpu
    }
    fn slice(&mut self, which: Which) -> Result<Slice, HostError> {
        self.slices += 1;
        if self.slices > LIFE {
            return Ok(Slice::Ended { status: 0 });
        }
        let index = match which {
            Which::Only(vcpu) => vcpu,
            Which::All => self.slices as usize % self.vcpus.len(),
        };
        let words = self.vcpus[index].enter(&mut self.lps[index].seam, index, 0)?;
        Ok(match ExitReason(words.exit_reason() as u16) {
            ExitReason::EXCEPTION_OR_NMI => Slice::Stopped {
                vcpu: index,
                qualification: words.rcx,
                interruption: words.r9,
            },
            _ => Slice::Ran,
        })
    }
    fn last_exits(&self, _: usize, _: usize) -> Vec<String> {
        Vec::new()
    }
    fn explain(&self, value: &str) -> String {
        value.to_owned()
    }
    fn tell(&mut self, _: &str) {}
}

fn debugged() -> Debugged {
    // Every third exit is an exception of the guest's own: #BP, or #DB by a single step.
    let count = std::sync::atomic::AtomicU32::new(0);
    let guests = Guests::stepped(move |vcpu| {
        let count = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        vcpu.regs.rip = vcpu.regs.rip.wrapping_add(100);
        vcpu.exit = match count % 3 {
            0 => VmExit::new(ExitReason(29)),
            1 => VmExit {
                interruption_info: 0x8000_0603,
                ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
            },
            _ => VmExit {
                interruption_info: 0x8000_0301,
                qualification: 0x4000,
                ..VmExit::new(ExitReason::EXCEPTION_OR_NMI)
            },
        };
    });
    let config = PlatformConfig::new(1, 2, 64 * MIB);
    let private = config.machine.private_key_ids;
    let memory = config.machine.cmrs.iter();
    let memory = memory.map(|cmr| cmr.start.max(16 * MIB)..cmr.end).collect();
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
    let config = TdConfig {
        max_vcpus: 2,
        ..TdConfig::default().debug(true)
    };
    let td = Td::create(&host, &mut lps, config, || {}).expect("a TD");
    let vcpus: Vec<Vcpu> = (0..2)
        .map(|on| td.add_vcpu(&host, &mut lps, on, 0).expect("a vCPU"))
        .collect();
    td.finalize(&mut lps[0].seam).expect("nothing to measure");
    Debugged {
        host,
        lps,
        td,
        vcpus,
        slices: 0,
    }
}

/// Sends the bytes to a fresh server and hangs up; then the TD must still run, and leave nothing behind.
pub fn talk(bytes: &[u8]) {
    let mut owner = debugged();
    let (mut client, server) = UnixStream::pair().expect("a pair of sockets");
    let stream = Stream::try_from(server).expect("a socket");
    let bytes = bytes.to_vec();
    let sender = std::thread::spawn(move || {
        // The server may hang up first.
        let _ = client.write_all(&bytes);
        let _ = client.shutdown(Shutdown::Write);
        let mut answers = Vec::new();
        let _ = std::io::Read::read_to_end(&mut client, &mut answers);
    });
    let left = serve(&mut owner, stream).expect("a client is no reason to fail");
    assert!(
        !matches!(left, Leave::Ended { .. }) || owner.slices > LIFE,
        "{left:?}"
    );
    sender.join().expect("it only sends and reads");
    for (index, vcpu) in owner.vcpus.iter_mut().enumerate() {
        let words = vcpu.enter(&mut owner.lps[index].seam, index, 0);
        let words = words.expect("an entry");
        assert_eq!(words.rax.raw() >> 32, 0, "{words:x?}");
    }
    let Debugged {
        host,
        mut lps,
        td,
        vcpus,
        ..
    } = owner;
    td.destroy(&host, &mut lps, vcpus).expect("the TD ends");
}
