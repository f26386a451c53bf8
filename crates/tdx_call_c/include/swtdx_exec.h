/* SPDX-License-Identifier: Apache-2.0 OR MIT */
/*
 * For programs that run under `swtdx exec` and make SEAMCALLs: the simulated physical memory, mapped.
 *
 * swtdx passes in the environment:
 *   SWTDX_MEMORY         a file that is the memory; offset = physical address
 *   SWTDX_MEMORY_SIZE    its size in bytes, in decimal
 *   SWTDX_LPS            logical processors; the first thread that makes a call is 0, the next 1, and so on
 *   SWTDX_PRIVATE_KEYS   first and last private key ID, as MSR 0x87 tells a kernel: "32-63"
 *
 * What is mapped is memory as the host's own key shows it. Pages that belong to a TD or to the module keep what the
 * host wrote before; nothing of theirs can be read or changed through the mapping.
 */
#ifndef SWTDX_EXEC_H
#define SWTDX_EXEC_H

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

struct swtdx_machine {
	unsigned char *memory; /* byte n is physical address n */
	uint64_t size;
	unsigned int lps;
	unsigned int first_key, last_key;
};

/* 0, or an errno: ENODEV when the program does not run under `swtdx exec`. */
static inline int swtdx_machine(struct swtdx_machine *machine)
{
	const char *path = getenv("SWTDX_MEMORY");
	const char *size = getenv("SWTDX_MEMORY_SIZE");
	const char *lps = getenv("SWTDX_LPS");
	const char *keys = getenv("SWTDX_PRIVATE_KEYS");
	void *memory;
	int fd;

	if (!path || !size || !lps || !keys)
		return ENODEV;
	machine->size = strtoull(size, NULL, 10);
	machine->lps = (unsigned int)strtoul(lps, NULL, 10);
	if (sscanf(keys, "%u-%u", &machine->first_key, &machine->last_key) != 2)
		return EINVAL;
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return errno;
	memory = mmap(NULL, machine->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	close(fd);
	if (memory == MAP_FAILED)
		return errno;
	machine->memory = (unsigned char *)memory;
	return 0;
}

#endif
