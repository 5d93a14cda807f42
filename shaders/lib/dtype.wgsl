//% if dtype == "f16"
enable f16;
//% endif
alias T = ${dtype}; // element type of floating-point tensors in memory
