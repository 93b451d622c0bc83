"""Prove that torch computes on this box's card; argv: the CUDA release that it has to be built for."""

import sys


def has_kernels(capability, built_for):
    """Tell whether a card can run what torch was built for.

    capability: the card's, as (major, minor). built_for: torch's list, such as sm_80 (runs on 8.0 and later 8.x) and
    compute_90 (which the driver compiles for 9.0 and all that is newer).
    """
    for entry in built_for:
        kind, _, number = entry.partition("_")
        digits = number.rstrip("af")
        if not digits.isdigit():
            continue
        major, minor = divmod(int(digits), 10)
        same = kind == "sm" and major == capability[0] and minor <= capability[1]
        if same or (kind == "compute" and (major, minor) <= tuple(capability)):
            return True
    return False


def problems_of(cuda, wanted, available, why, name, capability, built_for):
    """Return what is wrong, a sentence each with what to do.

    cuda, wanted: the releases that torch is and should be built for. available: what torch says of a GPU; why: its
    words where it says no. name, capability, built_for: of the card, as for has_kernels.
    """
    if cuda != wanted:
        return [f"torch is built for CUDA {cuda} and not for {wanted}. Run again with --tags torch."]
    if not available:
        return [
            f"torch finds no usable GPU: {why}. Look at nvidia-smi on the box; if that works, the container was "
            "started without its GPU's devices: start it anew."
        ]
    if not has_kernels(capability, built_for):
        return [
            f"torch+cu118 has no kernels for the {name} (compute capability {capability[0]}.{capability[1]}; it has "
            f"{', '.join(built_for)}). Rent a card up to the RTX 40 or H100 generation."
        ]
    return []


def main():
    import torch

    available, why, name, capability, built_for = torch.cuda.is_available(), "", "", (0, 0), []
    if available:
        name, capability = torch.cuda.get_device_name(0), torch.cuda.get_device_capability(0)
        built_for = torch.cuda.get_arch_list()
    else:
        try:
            torch.cuda.init()
        except Exception as error:  # whatever it is, its words are what the operator needs
            why = " ".join(str(error).split()) or type(error).__name__
    problems = problems_of(torch.version.cuda, sys.argv[1], available, why, name, capability, built_for)
    if problems:
        sys.exit("\n".join(problems))
    ones = torch.ones((256, 256), device="cuda", dtype=torch.float16)
    found = float((ones @ ones).float().sum())
    if found != 256.0**3:
        sys.exit(f"The {name} computes wrongly ({found} where {256.0**3} is right). Rent another box.")
    print(f"torch {torch.__version__} computes on the {name}.")


if __name__ == "__main__":
    main()
