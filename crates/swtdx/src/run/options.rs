//! The options of `swtdx run`.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use tdx_call::backend::FaultRule;
use tdx_debug::Address;
use tdx_platform::EngineKind;

use super::debugger::{Debugging, OnDrop};
use super::devices::{ConsoleDevice, DiskFile};
use super::td_params::TdArgs;

const EXAMPLES: &str = "\
Examples:
  swtdx run                                   the embedded guest on one vCPU
  swtdx run --cpus 4 --json                   four vCPUs, summary as JSON
  swtdx run --trace=calls.txt                 every SEAMCALL with its registers
  swtdx run --record run.jsonl                then: swtdx replay run.jsonl, swtdx trace run.jsonl
  swtdx run --fault busy:TDH.MEM.TRACK@1      the first TRACK finds its lock held
  swtdx run --fault busy:SEPT_TREE@/3         every third call that takes the Secure EPT tree finds it held
  swtdx run --fault 'listed:*@~500' --seed 4  one call in 500 answers one of its leaf's statuses
  swtdx run --fault poison:TDH.MEM.PAGE.ADD@9 the ninth page added is bad memory
  swtdx run --kernel vmlinuz --initrd initrd.cpio --append console=ttyS0 --memory 1G
  swtdx run --kernel vmlinuz --initrd initrd.cpio --append console=ttyS0 --memory 1G --exec 'grep tdx /proc/cpuinfo'
  swtdx run --firmware OVMF.fd --kernel vmlinuz --initrd initrd.cpio --append console=ttyS0 --memory 512M
  swtdx run --kernel vmlinuz --initrd initrd.cpio --append console=hvc0 --console-device virtio --disk root.img,ro
  swtdx run --debug-td --gdb :1234 --gdb-wait then in GDB: target remote :1234
  swtdx run --cpus 4 --realtime               four vCPUs on threads, on the host's clock
  swtdx run --dry-run --gpaw 52               the TD's parameters, without running it
  swtdx run --debug-td --kernel vmlinuz       registers and code of a vCPU that dies

Console: at a terminal Ctrl-a x ends the run, Ctrl-a h shows help; from a file or pipe the guest gets input
when it waits for some.

Exit status: 0 the TD shut down cleanly, 1 wrong usage or input, 2 the guest's command failed, 3 guest panic
or fatal error, 4 triple fault, 5 timeout or hang, 6 the TD or the module is dead, 70 a bug of swtdx.";

/// As many as Intel's modules allow a TD.
pub const MAX_CPUS: i64 = 576;

/// What to boot and how.
#[derive(clap::Args, Debug)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// TD firmware to boot: an image with TDVF metadata, such as OVMF
    #[arg(long, value_name = "FILE")]
    pub firmware: Option<PathBuf>,
    /// Where the firmware's debug output goes (I/O port 0x402; release builds say nothing there)
    #[arg(long, value_name = "FILE", requires = "firmware")]
    pub firmware_log: Option<PathBuf>,
    /// A file for the firmware to read through fw_cfg, such as opt/org.example/x=FILE
    #[arg(long, value_name = "NAME=FILE", requires = "firmware")]
    pub fw_cfg: Vec<FwCfgFile>,
    /// Linux kernel (bzImage) to boot: directly, or by --firmware, which starts any EFI application
    #[arg(long, value_name = "FILE")]
    pub kernel: Option<PathBuf>,
    /// Initial RAM disk for the kernel
    #[arg(long, value_name = "FILE", requires = "kernel")]
    pub initrd: Option<PathBuf>,
    /// Command line of the kernel
    #[arg(long, value_name = "STRING", requires = "kernel")]
    pub append: Option<String>,
    /// Have the generated initial RAM disk run a shell command; its exit status other than 0 makes ours 2
    #[arg(long, value_name = "CMD", requires = "kernel")]
    pub exec: Option<String>,
    /// Run a guest that is a Rust function in swtdx, without the CPU engine
    #[arg(long, conflicts_with_all = ["firmware", "kernel"])]
    pub scripted: bool,
    /// What runs the guest's code: translator (compiles hot code for this processor, with the same results); interpreter;
    /// or lockstep, both at once, which ends with exit status 70 and a reproducer at the first difference
    #[arg(long, value_name = "ENGINE", default_value_t = EngineKind::Translator, conflicts_with = "scripted")]
    pub engine: EngineKind,
    /// Virtual processors
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=MAX_CPUS))]
    pub cpus: u16,
    /// Guest memory: bytes, or with K, M or G
    #[arg(long, value_name = "SIZE", default_value_t = Size(256 << 20))]
    pub memory: Size,
    /// Build a DEBUG TD, whose registers and memory its host may read
    #[arg(long)]
    pub debug_td: bool,
    /// Listen for GDB: ADDRESS:PORT, :PORT (loopback) or unix:PATH; needs --debug-td
    #[arg(long, value_name = "ADDR")]
    pub gdb: Option<Address>,
    /// Let the TD stand still until GDB has connected
    #[arg(long, requires = "gdb")]
    pub gdb_wait: bool,
    /// What the TD does when GDB is gone without detaching
    #[arg(long, value_name = "WHAT", requires = "gdb", value_enum, default_value_t = OnDrop::Run)]
    pub gdb_on_drop: OnDrop,
    /// Where the guest's console goes: stdio or a file
    #[arg(long, value_name = "stdio|FILE", default_value = "stdio")]
    pub console: PathBuf,
    /// The device that console input goes to: the serial port (ttyS0), or a virtio console (hvc0) beside it
    #[arg(long, value_name = "DEVICE", value_enum, default_value_t = ConsoleDevice::Serial)]
    pub console_device: ConsoleDevice,
    /// A virtio disk from a raw file of whole 512-byte sectors, which the guest may write unless `,ro` follows;
    /// may be given up to 28 times, for vda, vdb, …
    #[arg(long, value_name = "FILE[,ro]", conflicts_with = "scripted")]
    pub disk: Vec<DiskFile>,
    /// A virtio random number generator, which gives the same numbers for the same --seed
    #[arg(long, conflicts_with = "scripted")]
    pub rng: bool,
    /// Print every call with its registers, to standard error or a file
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = "-")]
    pub trace: Option<PathBuf>,
    /// Record every call and what the guest did, for `swtdx replay` and `swtdx trace`
    #[arg(long, value_name = "FILE", conflicts_with_all = ["dry_run", "realtime"])]
    pub record: Option<PathBuf>,
    /// Disturb calls, up to 16 rules: WHAT:WHERE[@WHEN]
    ///
    /// WHAT: busy, no-entropy, interrupted, no-module, gp, ud, a status by name or number, listed (one of the leaf's
    /// own, by --seed): the call is not made and answers so. lost: it is not made and succeeds. interrupt, poison,
    /// lost-flush: it is made, and an interrupt waits meanwhile, its page is bad memory afterwards, or the TLB keeps
    /// what it should drop. lie: TDH.VP.ENTER answers a TDVMCALL with nonsense by --seed. WHERE: a leaf, a lock (SEPT_TREE, SEPT_ENTRY, TDR, PAGE, OP_STATE, TD_EPOCH, KOT, TDMR,
    /// WBCACHE, SYS), or *. WHEN: N, N+COUNT, /N for every Nth, ~N for one in N by --seed; else every call.
    #[arg(long, value_name = "SPEC")]
    pub fault: Vec<FaultRule>,
    /// Write the TDREPORT that the guest printed (1024 bytes)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Seed of keys, random numbers and schedule
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// One thread for each vCPU and the host's clock: quicker, and no two runs are the same
    #[arg(long, conflicts_with_all = ["gdb", "scripted"])]
    pub realtime: bool,
    /// Give up after this much wall time
    #[arg(long, value_name = "SECS")]
    pub timeout: Option<u64>,
    #[command(flatten)]
    pub td: TdArgs,
    /// Create the TD, print its parameters as --td-params reads them (JSON with --json), and end
    #[arg(long)]
    pub dry_run: bool,
    /// Print the summary as one JSON object on standard output; the console goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Say nothing on standard error but errors
    #[arg(long, short)]
    pub quiet: bool,
}

impl Args {
    /// The kernel's command line, with the command that --exec wants run.
    pub fn command_line(&self) -> String {
        let given = self.append.iter().cloned();
        let exec = self.exec.iter().map(|command| exec_word(command));
        given.chain(exec).collect::<Vec<_>>().join(" ")
    }

    /// Whether the guest's console is on standard input and output.
    pub fn console_is_stdio(&self) -> bool {
        self.console.to_str() == Some("stdio")
    }

    /// The debugger, if one is wanted.
    pub fn debugging(&self) -> Option<Debugging> {
        self.gdb.clone().map(|address| Debugging {
            address,
            wait: self.gdb_wait,
            on_drop: self.gdb_on_drop,
        })
    }
}

/// A command as one word of a kernel command line, as the generated initial RAM disk reads it.
fn exec_word(command: &str) -> String {
    let letters = command.bytes().map(|byte| match byte {
        b if b.is_ascii_alphanumeric() => char::from(b).to_string(),
        b => format!("%{b:02x}"),
    });
    format!("exec={}", letters.collect::<String>())
}

/// A named file in fw_cfg and the host's file that it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FwCfgFile {
    pub name: String,
    pub path: PathBuf,
}

impl FromStr for FwCfgFile {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => Ok(FwCfgFile {
                name: name.to_owned(),
                path: path.into(),
            }),
            _ => Err("NAME=FILE"),
        }
    }
}

/// A number of bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (digits, shift) = match text.as_bytes().last() {
            Some(b'K' | b'k') => (&text[..text.len() - 1], 10),
            Some(b'M' | b'm') => (&text[..text.len() - 1], 20),
            Some(b'G' | b'g') => (&text[..text.len() - 1], 30),
            _ => (text, 0),
        };
        let number: u64 = digits
            .parse()
            .map_err(|_| "a number of bytes, or with K, M or G".to_owned())?;
        match number.checked_mul(1 << shift) {
            Some(bytes) if (16 << 20..=1 << 40).contains(&bytes) && bytes % 4096 == 0 => {
                Ok(Size(bytes))
            }
            _ => Err("whole 4 KiB pages from 16M to 1024G".to_owned()),
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            bytes if bytes % (1 << 30) == 0 => write!(f, "{}G", bytes >> 30),
            bytes if bytes % (1 << 20) == 0 => write!(f, "{}M", bytes >> 20),
            bytes => write!(f, "{}K", bytes >> 10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_they_print_and_nonsense_is_refused() {
        for text in ["16M", "256M", "1G", "16388K"] {
            assert_eq!(text.parse::<Size>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "G",
            "1",
            "-1G",
            "15M",
            "1025G",
            "16777217",
            "99999999999G",
            "1é",
        ] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_command_is_one_word_of_letters_digits_and_percent_signs() {
        assert_eq!(
            exec_word("ls -l a1\n\"é%\""),
            "exec=ls%20%2dl%20a1%0a%22%c3%a9%25%22"
        );
    }
}
