#include <io/peft_folder.hpp>
