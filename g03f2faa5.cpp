#include <graft.hpp>
