//! Execution: one file per instruction family.

pub mod arith;
pub mod bits;
pub mod branch;
pub mod call_gate;
pub mod control_register;
pub mod descriptor;
pub mod far;
pub mod io;
pub mod mov;
pub mod msr;
pub mod muldiv;
pub mod shift;
pub mod simd;
pub mod stack;
pub mod string;
pub mod syscall;
pub mod system;
pub mod x87;

use crate::cpu::Cpu;
use crate::fault::Fault;
use crate::op::{BRANCH, SOLO, STORES};
use crate::operand::is_immediate;
use iced_x86::{Code, ConditionCode, FlowControl, Instruction, Mnemonic, OpKind};
use x86_arch::RamPage;

/// The x86 encoding of a condition.
pub fn condition_of(insn: &Instruction) -> Option<u8> {
    Some(match insn.condition_code() {
        ConditionCode::o => 0,
        ConditionCode::no => 1,
        ConditionCode::b => 2,
        ConditionCode::ae => 3,
        ConditionCode::e => 4,
        ConditionCode::ne => 5,
        ConditionCode::be => 6,
        ConditionCode::a => 7,
        ConditionCode::s => 8,
        ConditionCode::ns => 9,
        ConditionCode::p => 10,
        ConditionCode::np => 11,
        ConditionCode::l => 12,
        ConditionCode::ge => 13,
        ConditionCode::le => 14,
        ConditionCode::g => 15,
        ConditionCode::None => return None,
    })
}

fn has_control_register(insn: &Instruction) -> bool {
    (0..2).any(|n| {
        insn.op_kind(n) == OpKind::Register && {
            let register = insn.op_register(n);
            register.is_cr() || register.is_dr() || register.is_tr()
        }
    })
}

/// Fences and serializing instructions: the stores before them are seen by every processor before what follows.
///
/// The guest's accesses are the host's, in program order but for stores that wait while later loads go ahead, and for
/// non-temporal stores of translated code, which SFENCE orders.
fn drains_stores(insn: &Instruction) -> bool {
    use Mnemonic::*;
    match insn.mnemonic() {
        Mfence | Sfence | Serialize | Iret | Iretd | Iretq | Invlpg | Invpcid | Wrmsr | Lgdt
        | Lidt | Lldt | Ltr => true,
        Mov => has_control_register(insn),
        _ => false,
    }
}

/// Executes one instruction from its decoded form. `cpu.rip`, `cpu.next_rip` and `cpu.length` are set; a handler
/// that branches writes `next_rip`.
pub fn execute<P: RamPage + 'static>(
    cpu: &mut Cpu<'_, P>,
    insn: &Instruction,
) -> Result<(), Fault> {
    use Mnemonic::*;
    if drains_stores(insn) {
        core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
    }
    match insn.mnemonic() {
        Mov if has_control_register(insn) => control_register::mov(cpu, insn),
        Mov | Movnti | Movdiri => mov::mov(cpu, insn),
        Add | Adc | Sub | Sbb | Cmp | Inc | Dec | Neg | And | Or | Xor | Not | Test => {
            arith::execute(cpu, insn)
        }
        Adcx | Adox => arith::carry_chain(cpu, insn),
        Xadd | Cmpxchg => arith::exchange(cpu, insn),
        Cmpxchg8b | Cmpxchg16b => arith::exchange_wide(cpu, insn),
        Shl | Sal | Shr | Sar | Rol | Ror | Rcl | Rcr => shift::execute(cpu, insn),
        Shld | Shrd => shift::double(cpu, insn),
        Rorx | Sarx | Shlx | Shrx => shift::without_flags(cpu, insn),
        Mul | Imul | Div | Idiv | Mulx => muldiv::execute(cpu, insn),
        Aaa | Aas | Aam | Aad | Daa | Das => muldiv::decimal(cpu, insn),
        Bt | Bts | Btr | Btc => bits::test(cpu, insn),
        Bsf | Bsr | Tzcnt | Lzcnt | Popcnt => bits::count(cpu, insn),
        Andn | Bextr | Blsi | Blsmsk | Blsr | Bzhi | Pdep | Pext => bits::fields(cpu, insn),
        Bswap => bits::bswap(cpu, insn),
        Crc32 => bits::crc32(cpu, insn),
        Movzx | Movsx | Movsxd => mov::extend(cpu, insn),
        Lea => mov::lea(cpu, insn),
        Xchg => mov::xchg(cpu, insn),
        Movbe => mov::movbe(cpu, insn),
        Cbw | Cwde | Cdqe | Cwd | Cdq | Cqo => mov::convert(cpu, insn),
        Xlatb => mov::xlat(cpu, insn),
        Movdir64b => mov::movdir64b(cpu, insn),
        Lds | Les | Lfs | Lgs | Lss => mov::far_pointer(cpu, insn),
        Push => stack::push(cpu, insn),
        Pop => stack::pop(cpu, insn),
        Pusha | Pushad | Popa | Popad => stack::all(cpu, insn),
        Pushf | Pushfd | Pushfq => stack::pushf(cpu, insn),
        Popf | Popfd | Popfq => stack::popf(cpu, insn),
        Enter => stack::enter(cpu, insn),
        Leave => stack::leave(cpu, insn),
        // MOVSD and CMPSD name an SSE2 instruction as well.
        Movsd if insn.code() == Code::Movsd_m32_m32 => string::execute(cpu, insn),
        Cmpsd if insn.code() == Code::Cmpsd_m32_m32 => string::execute(cpu, insn),
        Movsb | Movsw | Movsq | Cmpsb | Cmpsw | Cmpsq | Stosb | Stosw | Stosd | Stosq | Lodsb
        | Lodsw | Lodsd | Lodsq | Scasb | Scasw | Scasd | Scasq => string::execute(cpu, insn),
        Jmp if insn.is_jmp_far() || insn.is_jmp_far_indirect() => far::jump_or_call(cpu, insn),
        Call if insn.is_call_far() || insn.is_call_far_indirect() => far::jump_or_call(cpu, insn),
        Jmp => branch::jmp(cpu, insn),
        Call => branch::call(cpu, insn),
        Ret => branch::ret(cpu, insn),
        Loop | Loope | Loopne | Jcxz | Jecxz | Jrcxz => branch::counted(cpu, insn),
        Retf => far::ret(cpu, insn),
        Iret | Iretd | Iretq => far::iret(cpu, insn),
        Int | Int1 | Int3 | Into => far::interrupt(cpu, insn),
        Bound => far::bound(cpu, insn),
        Syscall => syscall::syscall(cpu),
        Sysret | Sysretq => syscall::sysret(cpu, insn),
        Sysenter => syscall::sysenter(cpu),
        Sysexit | Sysexitq => syscall::sysexit(cpu, insn),
        Sgdt | Sidt => descriptor::store_table(cpu, insn),
        Lgdt | Lidt => descriptor::load_table(cpu, insn),
        Sldt | Str => descriptor::store_selector(cpu, insn),
        Lldt | Ltr => descriptor::load_system(cpu, insn),
        Lar | Lsl => descriptor::query(cpu, insn),
        Verr | Verw => descriptor::verify(cpu, insn),
        Arpl => descriptor::arpl(cpu, insn),
        Clts => control_register::clts(cpu),
        Lmsw => control_register::lmsw(cpu, insn),
        Smsw => control_register::smsw(cpu, insn),
        Rdmsr => msr::read(cpu),
        Wrmsr => msr::write(cpu),
        In | Out => io::plain(cpu, insn),
        Insb | Insw | Insd | Outsb | Outsw | Outsd => io::string(cpu, insn),
        Cpuid => system::cpuid(cpu),
        Hlt => system::hlt(cpu),
        Invd | Wbinvd | Wbnoinvd => system::write_back(cpu, insn),
        Clflush | Clflushopt | Clwb | Cldemote => system::flush_line(cpu, insn),
        Invlpg => system::invlpg(cpu, insn),
        Invpcid => system::invpcid(cpu, insn),
        Rdtsc | Rdtscp => system::rdtsc(cpu, insn),
        Rdpid => system::rdpid(cpu, insn),
        Rdpmc => system::rdpmc(cpu),
        Rdrand | Rdseed => system::random(cpu, insn),
        Pause => system::pause(cpu),
        Monitor | Mwait => system::monitor(cpu, insn),
        Umonitor | Umwait | Tpause => system::user_wait(cpu, insn),
        Cli | Sti => system::interrupt_flag(cpu, insn),
        Clac | Stac => system::alignment_flag(cpu, insn),
        Clc | Stc | Cmc | Cld | Std | Lahf | Sahf | Salc => system::flag(cpu, insn),
        Swapgs => system::swapgs(cpu),
        Rdfsbase | Rdgsbase | Wrfsbase | Wrgsbase => system::segment_base(cpu, insn),
        Rdpkru | Wrpkru => system::protection_keys(cpu, insn),
        Xsetbv => system::xsetbv(cpu),
        Tdcall | Seamcall | Seamret | Seamops => system::seam(cpu, insn),
        Vmcall | Vmclear | Vmlaunch | Vmptrld | Vmptrst | Vmread | Vmresume | Vmwrite | Vmxoff
        | Vmxon | Invept | Invvpid | Getsec | Vmfunc | Encls | Enclv | Pconfig => {
            system::vmx(cpu, insn)
        }
        // Hints, and fences.
        Nop | Rdsspd | Rdsspq | Endbr32 | Endbr64 | Prefetch | Prefetchw | Prefetchwt1
        | Prefetchnta | Prefetcht0 | Prefetcht1 | Prefetcht2 | Prefetchit0 | Prefetchit1
        | Lfence | Mfence | Sfence | Serialize | Reservednop => Ok(()),
        INVALID | Ud0 | Ud1 | Ud2 => Err(Fault::UD),
        _ => match condition_of(insn) {
            Some(code) if insn.is_jcc_short_or_near() => branch::jcc(cpu, insn, code),
            Some(code) if is_setcc(insn) => mov::set(cpu, insn, code),
            Some(code) if is_cmovcc(insn) => mov::conditional(cpu, insn, code),
            _ => simd::execute(cpu, insn),
        },
    }
}

fn is_setcc(insn: &Instruction) -> bool {
    insn.op_count() == 1
}

/// CMOVcc takes two operands, general registers first; FCMOVcc has a stack register there.
fn is_cmovcc(insn: &Instruction) -> bool {
    insn.op_count() == 2 && insn.op_register(0).is_gpr()
}

/// How the instruction shapes its block of decoded code.
pub fn block_flags(insn: &Instruction) -> u8 {
    use Mnemonic::*;
    let mut flags = 0;
    if insn.flow_control() != FlowControl::Next {
        flags |= BRANCH;
    }
    let memory = (0..insn.op_count()).any(|n| {
        let kind = insn.op_kind(n);
        kind != OpKind::Register && !is_immediate(kind)
    });
    if memory || insn.is_stack_instruction() {
        flags |= STORES;
    }
    // What needs exact counts, gives way in the middle, or changes how later instructions run.
    let solo = match insn.mnemonic() {
        Mov => {
            has_control_register(insn)
                || insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register()
        }
        Pop => insn.op_kind(0) == OpKind::Register && insn.op_register(0).is_segment_register(),
        Lds | Les | Lfs | Lgs | Lss | Popf | Popfd | Popfq | Cli | Sti | Clts | Lmsw | Lgdt
        | Lidt | Lldt | Ltr | Rdmsr | Wrmsr | In | Out | Insb | Insw | Insd | Outsb | Outsw
        | Outsd | Cpuid | Hlt | Invd | Wbinvd | Wbnoinvd | Invlpg | Invpcid | Rdtsc | Rdtscp
        | Rdpmc | Rdrand | Rdseed | Pause | Monitor | Mwait | Umonitor | Umwait | Tpause | Clac
        | Stac | Swapgs | Wrfsbase | Wrgsbase | Wrpkru | Xsetbv | Serialize | Xrstor | Xrstor64
        | Xrstors | Xrstors64 | Xbegin | INVALID => true,
        Movsd => insn.code() == Code::Movsd_m32_m32,
        Cmpsd => insn.code() == Code::Cmpsd_m32_m32,
        Movsb | Movsw | Movsq | Cmpsb | Cmpsw | Cmpsq | Stosb | Stosw | Stosd | Stosq | Lodsb
        | Lodsw | Lodsd | Lodsq | Scasb | Scasw | Scasd | Scasq => true,
        _ => false,
    };
    if solo {
        flags |= SOLO;
    }
    flags
}
