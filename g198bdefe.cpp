#include <peft/served.hpp>
