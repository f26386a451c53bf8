//! What the owner of the devices answers. Every method has the answer of a VMM that lacks the thing.

use x86_arch::Gpa;

use super::hypercall::NOT_IMPLEMENTED;
use super::{Answer, CallInfo, MapGpa, Request, get_quote, status};

/// The MSR does not exist, or not with that value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsrFault;

/// Devices, MSRs and policies behind the TDVMCALLs of a TD's vCPUs; `vcpu` is the index of the caller.
pub trait Services {
    /// A CPUID leaf that the guest asks its VMM for; zeros by default.
    fn cpuid(&mut self, _vcpu: u32, _leaf: u32, _subleaf: u32) -> [u32; 4] {
        [0; 4]
    }
    /// IN; all ones by default, as an empty bus reads.
    fn io_read(&mut self, _vcpu: u32, _port: u16, _size: u8) -> u32 {
        u32::MAX
    }
    fn io_write(&mut self, _vcpu: u32, _port: u16, _size: u8, _value: u32) {}
    fn read_msr(&mut self, _vcpu: u32, _msr: u32) -> Result<u64, MsrFault> {
        Err(MsrFault)
    }
    fn write_msr(&mut self, _vcpu: u32, _msr: u32, _value: u64) -> Result<(), MsrFault> {
        Err(MsrFault)
    }
    /// A load from a device page; `gpa` has the shared bit clear. All ones by default.
    fn mmio_read(&mut self, _vcpu: u32, _gpa: Gpa, _size: u8) -> u64 {
        u64::MAX
    }
    fn mmio_write(&mut self, _vcpu: u32, _gpa: Gpa, _size: u8, _value: u64) {}
    /// Allows or refuses a conversion before the library carries it out; `Err` is R10 of the answer.
    fn map_gpa(&mut self, _vcpu: u32, _piece: MapGpa) -> Result<(), u64> {
        Ok(())
    }
    /// Whether an event waits that the guest should see before a long MapGPA goes on.
    fn event_pending(&mut self, _vcpu: u32) -> bool {
        false
    }
    /// Whether the devices want their owner before the vCPU runs on: an interrupt to deliver, power off, reset.
    fn wants_owner(&mut self) -> bool {
        false
    }
    /// A quote for the TDREPORT in `buffer` (which begins with the GHCI's header); by default the header is
    /// replaced by "no quoting service". `Err` is R10 of the answer.
    fn get_quote(&mut self, _vcpu: u32, buffer: &mut [u8]) -> Result<(), u64> {
        let header = get_quote::no_service();
        match buffer.get_mut(..header.len()) {
            Some(place) => {
                place.copy_from_slice(&header);
                Ok(())
            }
            None => Err(status::INVALID_OPERAND),
        }
    }
    /// The vector for event notifications; `Err` is R10 of the answer.
    fn event_notify(&mut self, _vcpu: u32, _vector: u8) -> Result<(), u64> {
        Err(status::SUBFUNC_UNSUPPORTED)
    }
    /// R11 to R14 for GetTdVmCallInfo leaf 1; by default GetQuote alone is offered (bit 0).
    fn optional_calls(&mut self) -> [u64; 4] {
        [1, 0, 0, 0]
    }
    /// R10 of the answer to a hypercall.
    fn hypercall(&mut self, _vcpu: u32, _nr: u64, _args: [u64; 4]) -> u64 {
        NOT_IMPLEMENTED
    }
    /// A RAM access met the wrong half; `true` lets the library convert the page as KVM's users do.
    fn convert_on_fault(&mut self, _vcpu: u32, _gpa: Gpa, _to_shared: bool) -> bool {
        true
    }
}

/// A VMM without devices.
#[derive(Clone, Copy, Default, Debug)]
pub struct NoServices;

impl Services for NoServices {}

/// Answers what needs neither the TD's memory nor the run loop; `None` for the others.
pub fn serve<S: Services + ?Sized>(
    services: &mut S,
    vcpu: u32,
    request: &Request,
) -> Option<Answer> {
    let result = |done: Result<(), u64>| Answer::Status(done.err().unwrap_or(status::SUCCESS));
    Some(match *request {
        Request::Cpuid { leaf, subleaf } => Answer::Cpuid(services.cpuid(vcpu, leaf, subleaf)),
        Request::Io { port, size, write } => match write {
            Some(value) => {
                services.io_write(vcpu, port, size, value);
                Answer::Status(status::SUCCESS)
            }
            None => {
                let mask = u64::MAX >> (64 - 8 * u32::from(size));
                Answer::Value(u64::from(services.io_read(vcpu, port, size)) & mask)
            }
        },
        Request::Rdmsr { msr } => match services.read_msr(vcpu, msr) {
            Ok(value) => Answer::Value(value),
            Err(MsrFault) => Answer::Status(status::INVALID_OPERAND),
        },
        Request::Wrmsr { msr, value } => match services.write_msr(vcpu, msr, value) {
            Ok(()) => Answer::Status(status::SUCCESS),
            Err(MsrFault) => Answer::Status(status::INVALID_OPERAND),
        },
        Request::Mmio { gpa, size, write } => match write {
            Some(value) => {
                services.mmio_write(vcpu, gpa, size, value);
                Answer::Status(status::SUCCESS)
            }
            None => {
                let mask = u64::MAX >> (64 - 8 * u32::from(size));
                Answer::Value(services.mmio_read(vcpu, gpa, size) & mask)
            }
        },
        Request::EventNotify { vector } => result(services.event_notify(vcpu, vector)),
        Request::CallInfo(CallInfo::Base) => Answer::CallInfo([0; 4]),
        Request::CallInfo(CallInfo::Optional) => Answer::CallInfo(services.optional_calls()),
        Request::Hypercall { nr, args } => Answer::Hypercall(services.hypercall(vcpu, nr, args)),
        Request::Hlt { .. }
        | Request::MapGpa(_)
        | Request::GetQuote { .. }
        | Request::FatalError(_) => return None,
    })
}
