/* SPDX-License-Identifier: GPL-2.0 */
/* The module parameter "exclude", and what Rust has to say of a new value. */
#ifndef RPMEM_PARAM_H
#define RPMEM_PARAM_H

/* 0, or -EINVAL if a word of the list is unknown. */
int rpmem_rust_exclude_check(const char *list);

/* The list, which stays as it is until it is unlocked. May sleep. */
const char *rpmem_helper_exclude_lock(void);
void rpmem_helper_exclude_unlock(void);

#endif /* RPMEM_PARAM_H */
