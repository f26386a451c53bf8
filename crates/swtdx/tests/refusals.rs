//! What `swtdx run` says of guests that cannot run and of guests that die, with the real program.

#[path = "program/artifacts.rs"]
mod artifacts;
#[path = "program/folder.rs"]
mod folder;
mod program;

use artifacts::guest;
use folder::Folder;
use program::swtdx;
use tdx_devices::small_bzimage;

/// What a run says, with the folder's name taken out.
fn said(folder: &Folder, args: &[&str]) -> String {
    let text = swtdx(&[&["run", "--quiet"], args].concat(), "");
    folder.hide(&text, "DIR")
}

/// A bzImage whose 64-bit entry point, 0x200 bytes into its protected-mode part, is `code`.
fn bzimage(code: &[u8]) -> Vec<u8> {
    let mut kernel = small_bzimage();
    kernel[5 * 512 + 0x200..][..code.len()].copy_from_slice(code);
    kernel
}

/// Prints a text by TDVMCALLs, then goes on with `then`.
fn says(text: &str, then: &[u8]) -> Vec<u8> {
    let code: &[&[u8]] = &[
        &[0x48, 0x8D, 0x35], // lea rsi, [rip + text]
        &(49 + then.len() as u32).to_le_bytes(),
        &[0xAC],                               // next: lodsb
        &[0x84, 0xC0],                         // test al, al
        &[0x74, 44],                           // jz end
        &[0x44, 0x0F, 0xB6, 0xF8],             // movzx r15d, al
        &[0x31, 0xC0],                         // xor eax, eax: TDG.VP.VMCALL
        &[0xB9, 0x00, 0xFC, 0x00, 0x00],       // mov ecx, 0xFC00: R10 to R15
        &[0x45, 0x31, 0xD2],                   // xor r10d, r10d
        &[0x41, 0xBB, 30, 0x00, 0x00, 0x00],   // mov r11d, 30: I/O
        &[0x41, 0xBC, 0x01, 0x00, 0x00, 0x00], // mov r12d, 1: a byte
        &[0x41, 0xBD, 0x01, 0x00, 0x00, 0x00], // mov r13d, 1: a write
        &[0x41, 0xBE, 0xF8, 0x03, 0x00, 0x00], // mov r14d, 0x3F8
        TDCALL,
        &[0xEB, 0xCF], // jmp next
        then,          // end:
        text.as_bytes(),
        &[0],
    ];
    code.concat()
}

const TDCALL: &[u8] = &[0x66, 0x0F, 0x01, 0xCC];
/// An IDT without entries, then CPUID of a leaf that is the VMM's: a #VE that cannot be delivered.
const CPUID: &[u8] = &[
    0x6A, 0x00, 0x6A, 0x00, 0x0F, 0x01, 0x1C, 0x24, // push 0; push 0; lidt [rsp]
    0xB8, 0x00, 0x00, 0x00, 0x40, 0x0F, 0xA2, // mov eax, 0x40000000; cpuid
];
/// UD2 with an IDT without entries.
const UD2: &[u8] = &[0x6A, 0x00, 0x6A, 0x00, 0x0F, 0x01, 0x1C, 0x24, 0x0F, 0x0B];
/// TDVMCALL HLT with interrupts blocked.
const SLEEP: &[u8] = &[
    0x31, 0xC0, // xor eax, eax
    0xB9, 0x00, 0x1C, 0x00, 0x00, // mov ecx, 0x1C00: R10 to R12
    0x45, 0x31, 0xD2, // xor r10d, r10d
    0x41, 0xBB, 12, 0x00, 0x00, 0x00, // mov r11d, 12: HLT
    0x41, 0xBC, 0x01, 0x00, 0x00, 0x00, // mov r12d, 1
    0x66, 0x0F, 0x01, 0xCC,
];
/// TDVMCALL ReportFatalError with code 5 and no text.
const FATAL: &[u8] = &[
    0x31, 0xC0, // xor eax, eax
    0xB9, 0x00, 0x1C, 0x00, 0x00, // mov ecx, 0x1C00: R10 to R12
    0x45, 0x31, 0xD2, // xor r10d, r10d
    0x41, 0xBB, 0x03, 0x00, 0x01, 0x00, // mov r11d, 0x10003
    0x41, 0xBC, 0x05, 0x00, 0x00, 0x00, // mov r12d, 5
    0x66, 0x0F, 0x01, 0xCC,
];
const LOOP: &[u8] = &[0xEB, 0xFE];

#[test]
fn a_guest_that_cannot_be_loaded_is_refused_in_one_line() {
    let folder = Folder::new("refusals");
    let kernel = bzimage(LOOP);
    let good = folder.file("bzImage", &kernel);
    let cut = folder.file("cut", &kernel[..3000]);
    let elf = folder.file("vmlinux", &[b"\x7fELF".as_slice(), &[0; 8192]].concat());
    let text = folder.file("text", &b"not a kernel\n".repeat(1000));
    let initrd = folder.file("initrd", &[]);
    let file = std::fs::File::options()
        .write(true)
        .open(&initrd)
        .expect("a file");
    file.set_len(20 << 20).expect("a sparse file");
    let folder_itself = folder.path().to_str().expect("UTF-8");
    let cases: &[&[&str]] = &[
        &["--kernel", &elf],
        &["--kernel", &text],
        &["--kernel", &cut],
        &["--kernel", &format!("{folder_itself}/absent")],
        &["--kernel", folder_itself],
        &["--kernel", "/dev/zero"],
        &["--kernel", &good, "--memory", "16M"],
        &["--kernel", &good, "--initrd", &initrd, "--memory", "32M"],
        &["--kernel", &good, "--initrd", &initrd, "--memory", "18M"],
        &["--firmware", &text],
    ];
    let said: Vec<String> = cases.iter().map(|args| said(&folder, args)).collect();
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_guest_that_dies_leaves_its_last_words() {
    let folder = Folder::new("deaths");
    let panic =
        "[ 2.1] VFS: no root\\n[ 2.1] Kernel panic - not syncing: no init".replace("\\n", "\n");
    let deaths = [
        ("no TDX", CPUID.to_vec()),
        ("no TDX handler", says("hello\n", CPUID)),
        ("triple fault", says("one\ntwo\n", UD2)),
        ("panic", says(&format!("{panic}\n"), SLEEP)),
        ("hang", says("waiting\n", SLEEP)),
        ("fatal error", says("oh no\n", FATAL)),
    ];
    let said = deaths.map(|(name, code)| {
        let kernel = folder.file("kernel", &bzimage(&code));
        let text = said(&folder, &["--kernel", &kernel, "--memory", "32M"]);
        format!("=== {name}\n{text}")
    });
    insta::assert_snapshot!(said.join("\n"));
}

#[test]
fn a_guest_that_goes_on_for_ever_ends_at_the_timeout() {
    let folder = Folder::new("timeout");
    let kernel = folder.file("kernel", &bzimage(&says("working\n", LOOP)));
    let said = said(
        &folder,
        &["--kernel", &kernel, "--memory", "32M", "--timeout", "1"],
    );
    insta::assert_snapshot!(said);
}

#[test]
fn in_real_time_hangs_panics_and_timeouts_are_known_too() {
    let folder = Folder::new("realtime");
    let deaths = [
        (
            "panic",
            says("Kernel panic - not syncing: no init\n", SLEEP),
            3,
        ),
        ("hang", says("waiting\n", SLEEP), 5),
        ("timeout", says("working\n", LOOP), 5),
        ("triple fault", says("one\n", UD2), 4),
    ];
    for (name, code, status) in deaths {
        let kernel = folder.file("kernel", &bzimage(&code));
        let args = ["--kernel", &kernel, "--memory", "32M", "--realtime"];
        let timeout = if name == "timeout" { "2" } else { "60" };
        let said = said(&folder, &[&args[..], &["--timeout", timeout]].concat());
        assert!(
            said.starts_with(&format!("exit status {status}\n")),
            "{name}: {said}"
        );
        let wanted = match name {
            "panic" => "the guest panicked: Kernel panic - not syncing: no init",
            "hang" => {
                "every vCPU waits for an interrupt that nothing will send; its last lines:\n  waiting"
            }
            "timeout" => "no end after 2 s; its last lines:\n  working",
            _ => "vCPU 0: triple fault; its last lines:\n  one",
        };
        assert!(said.contains(wanted), "{name}: {said}");
    }
}

#[test]
fn bookworms_kernel_without_tdx_is_known_by_its_first_ve() {
    let Some(kernel) = guest("linux-6.1/vmlinuz") else {
        return;
    };
    let args = ["run", "--quiet", "--memory", "128M", "--kernel"];
    let text = swtdx(
        &[&args[..], &[kernel.to_str().expect("UTF-8")]].concat(),
        "",
    );
    assert_eq!(
        text,
        "exit status 4\n--- output\n--- errors\nswtdx: vCPU 0: triple fault at a #VE (CR_ACCESS) that the guest cannot \
         take: a kernel without TDX guest support (CONFIG_INTEL_TDX_GUEST) dies so\n"
    );
}
