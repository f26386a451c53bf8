/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/* Calls the six functions; prints "ok" or the first line that failed. */
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include "tdx_call.h"

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			printf("line %d: %s\n", __LINE__, #condition); \
			return 1; \
		} \
	} while (0)

_Static_assert(sizeof(struct tdx_module_args) == 104, "as Linux's");
_Static_assert(offsetof(struct tdx_module_args, r15) - offsetof(struct tdx_module_args, r8) == 56, "r8 to r15 contiguous");
_Static_assert(offsetof(struct tdx_module_args, rsi) == 96, "rsi last");

struct seen {
	int which;
	uint64_t gprs[16];
	int answer;
	int all; /* change every register, as only TDH.VP.ENTER and its like do */
};

static int serve(int which, uint64_t *gprs, void *xmms, void *context)
{
	struct seen *seen = context;
	(void)xmms;
	seen->which = which;
	memcpy(seen->gprs, gprs, sizeof(seen->gprs));
	if (seen->answer)
		return seen->answer;
	for (int i = 0; i < 16; i++)
		if (seen->all ? i != 4 : i < 3 || (i >= 8 && i < 12)) /* never RSP */
			gprs[i] = 0x100 + i;
	return 0;
}

typedef uint64_t (*call_fn)(uint64_t, struct tdx_module_args *);

static void fill(struct tdx_module_args *args)
{
	uint64_t *word = (uint64_t *)args;
	for (int i = 0; i < 13; i++)
		word[i] = 0x50 + i;
}

int main(void)
{
	static const int order[13] = {1, 2, 8, 9, 10, 11, 12, 13, 14, 15, 3, 7, 6};
	call_fn saved[2] = {__seamcall_saved_ret, __tdcall_saved_ret};
	call_fn ret[2] = {__seamcall_ret, __tdcall_ret};
	call_fn in[2] = {__seamcall, __tdcall};
	struct tdx_module_args args, before;
	struct seen seen = {0};

	fill(&args);
	before = args;
	CHECK(tdx_catch_faults() == 0);
	for (int side = 0; side < 2; side++) {
		CHECK(in[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(ret[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(saved[side](33, &args) == TDX_SEAMCALL_UD);
		CHECK(memcmp(&args, &before, sizeof(args)) == 0);
	}

	CHECK(tdx_serve(serve, &seen) == 0);
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(in[side](33, &args) == 0x100);
		CHECK(seen.which == side && seen.gprs[0] == 33);
		for (int i = 0; i < 6; i++)
			CHECK(seen.gprs[order[i]] == 0x50u + i);
		CHECK(memcmp(&args, &before, sizeof(args)) == 0);
	}
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(ret[side](34, &args) == 0x100);
		for (int i = 0; i < 13; i++)
			CHECK(word[i] == (i < 6 ? 0x100u + order[i] : 0x50u + i));
	}
	seen.all = 1;
	for (int side = 0; side < 2; side++) {
		uint64_t *word = (uint64_t *)&args;

		fill(&args);
		CHECK(saved[side](48, &args) == 0x100);
		for (int i = 0; i < 13; i++) {
			CHECK(seen.gprs[order[i]] == 0x50u + i);
			CHECK(word[i] == 0x100u + order[i]);
		}
	}
	seen.answer = -1;
	CHECK(__seamcall_saved_ret(0, &args) == TDX_SEAMCALL_VMFAILINVALID);
	seen.answer = 13;
	CHECK(__seamcall_ret(0, &args) == TDX_SEAMCALL_GP);
	CHECK(tdx_serve(NULL, NULL) == 0);
	CHECK(__seamcall(33, &args) == TDX_SEAMCALL_UD);
	puts("ok");
	return 0;
}
