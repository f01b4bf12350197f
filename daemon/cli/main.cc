// The `ikkuna` program.
#include "daemon/cli/commands.h"

int main(int argc, char** argv) { return ikkuna::cli::RunCli(argc, argv, IKKUNA_VERSION); }
