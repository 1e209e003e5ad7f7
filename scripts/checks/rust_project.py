#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""rust_project.py IN OUT TOP ROOT OBJDIR: make the kernel's project file IN one
that rust-analyzer can use outside of the build root ROOT, check it, write OUT.

The kernel's generator does not know that the module includes bindings from
OBJDIR, and names the Rust library by its path inside of the build root.
"""

import json
import os
import sys


def main():
    source, target, top, root, objdir = sys.argv[1:]
    wrong = []

    def check(what, text):
        if not what:
            wrong.append(text)
        return what

    with open(source, encoding="utf-8") as file:
        project = json.load(file)
    crates = project["crates"]
    library = project["sysroot"] + "/lib/rustlib/"
    project["sysroot"] = root + project["sysroot"]
    for index, crate in enumerate(crates):
        name = crate["display_name"]
        if crate["root_module"].startswith(library):
            crate["root_module"] = root + crate["root_module"]
        check(os.path.isfile(crate["root_module"]),
              f"the root of {name} does not exist: {crate['root_module']}")
        library_file = crate.get("proc_macro_dylib_path")
        check(library_file is None or os.path.isfile(library_file),
              f"the macros of {name} do not exist: {library_file}")
        for dep in crate["deps"]:
            known = check(0 <= dep["crate"] < index,
                          f"{name} depends on crate {dep['crate']}, which is not before it")
            check(known and crates[dep["crate"]]["display_name"] == dep["name"],
                  f"{name} calls crate {dep['crate']} {dep['name']}, which it is not")

    own = [crate for crate in crates
           if crate["root_module"] == f"{top}/src/rpmem_main.rs"]
    if check(len(own) == 1, f"the module's crate is there {len(own)} times"):
        own = own[0]
        deps = {dep["name"] for dep in own["deps"]}
        check({"core", "kernel", "pin_init"} <= deps, f"the module depends on {deps} only")
        check("CONFIG_RUST" in own["cfg"], "the module lacks the kernel's configuration")
        check(os.path.isfile(f"{objdir}/bindings_generated.rs"),
              f"{objdir} holds no bindings_generated.rs: build the module first")
        own["env"]["RPMEM_OBJDIR"] = objdir
        own["source"] = {"include_dirs": [f"{top}/src", objdir], "exclude_dirs": []}

    for text in wrong:
        print(f"error: {source}: {text}", file=sys.stderr)
    if wrong:
        sys.exit(1)
    with open(target + ".partial", "w", encoding="utf-8") as file:
        json.dump(project, file, indent=4, sort_keys=True)
    os.rename(target + ".partial", target)


main()
