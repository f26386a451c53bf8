/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * SEAMCALL and TDCALL with Linux's names and prototypes (arch/x86/include/asm/tdx.h).
 *
 * libtdx_call_c.a needs nothing but memcpy and its like:
 *   cargo rustc --release -p tdx_call_c --crate-type staticlib -- -C panic=abort
 */
#ifndef TDX_CALL_H
#define TDX_CALL_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The registers of a call, in Linux's order: 104 bytes, r8 to r15 contiguous. */
struct tdx_module_args {
	uint64_t rcx, rdx, r8, r9, r10, r11, r12, r13, r14, r15;
	uint64_t rbx, rdi, rsi;
};

/* Errors made by software: a class that no module uses. */
#define TDX_SW_ERROR              0x8000FF0000000000ULL
#define TDX_SEAMCALL_VMFAILINVALID 0x8000FF00FFFF0000ULL
#define TDX_SEAMCALL_GP           0x8000FF000000000DULL
#define TDX_SEAMCALL_UD           0x8000FF0000000006ULL

/* Return RAX. Nothing is written to args when the call reached no module. */
uint64_t __seamcall(uint64_t fn, struct tdx_module_args *args);
uint64_t __seamcall_ret(uint64_t fn, struct tdx_module_args *args);
uint64_t __seamcall_saved_ret(uint64_t fn, struct tdx_module_args *args);
uint64_t __tdcall(uint64_t fn, struct tdx_module_args *args);
uint64_t __tdcall_ret(uint64_t fn, struct tdx_module_args *args);
uint64_t __tdcall_saved_ret(uint64_t fn, struct tdx_module_args *args);

/*
 * Without TDX (and always in ring 3) both instructions fault, with #UD or #GP. A handler of those faults that finds a
 * fixup for the faulting RIP (not 0) puts the vector, 6 or 13, into RAX and resumes there: the function returns
 * TDX_SEAMCALL_UD or TDX_SEAMCALL_GP. The table is the section tdx_extable: pairs of 32-bit distances, of the
 * instruction and of its fixup from the word itself.
 */
uintptr_t tdx_fixup(uintptr_t rip);

#ifdef __cplusplus
}
#endif
#endif
