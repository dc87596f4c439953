#include <io/save_model.hpp>
