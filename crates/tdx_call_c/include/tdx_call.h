/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * SEAMCALL and TDCALL with Linux's names and prototypes (arch/x86/include/asm/tdx.h).
 *
 * Link with libtdx_call_c.a -lpthread -ldl -lm.
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
 * User space only. In ring 3 both instructions fault: after this the six functions return TDX_SEAMCALL_UD or
 * TDX_SEAMCALL_GP instead of ending the process. Returns 0 or an errno.
 */
int tdx_catch_faults(void);

/*
 * User space only. Serves the instructions of the calling thread: which is 0 for SEAMCALL and 1 for TDCALL, gprs holds
 * RAX RCX RDX RBX RSP RBP RSI RDI R8..R15, xmms sixteen times 16 bytes. Return 0, 6 or 13 for that fault, -1 for
 * VMfailInvalid. A null function ends it. Returns 0 or an errno.
 */
typedef int (*tdx_serve_fn)(int which, uint64_t *gprs, void *xmms, void *context);
int tdx_serve(tdx_serve_fn serve, void *context);

#ifdef __cplusplus
}
#endif
#endif
