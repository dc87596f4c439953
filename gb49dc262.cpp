#include <io.hpp>
