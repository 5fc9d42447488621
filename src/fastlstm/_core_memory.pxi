# Memory for the engine: on 64-byte boundaries, and what a network uses again and again. Part of _core.pyx.

def aligned(Py_ssize_t size, dtype):
    """Zeroed 1-D array of `size` elements that starts on a 64-byte boundary."""
    if size < 0:
        raise ValueError("a size does not fit into memory")
    cdef cnp.dtype kind = np.dtype(dtype)
    cdef Py_ssize_t item = kind.itemsize
    cdef cnp.npy_intp shape = size + 64 // item
    raw = cnp.PyArray_ZEROS(1, &shape, kind.num, 0)
    cdef Py_ssize_t skip = (-<Py_ssize_t>data(raw) & 63) // item
    return raw[skip:skip + size]


def part_of(cnp.ndarray flat, Py_ssize_t at, tuple shape):
    """flat[at : ...] as a view of `shape` (3 sizes); a third of what slicing and reshaping take."""
    cdef cnp.npy_intp sizes[3]
    sizes[0], sizes[1], sizes[2] = shape
    if at < 0 or at + sizes[0] * sizes[1] * sizes[2] > cnp.PyArray_DIM(flat, 0):
        raise IndexError("a part of an array lies beyond its end")
    cdef char *start = <char *>cnp.PyArray_DATA(flat) + at * cnp.PyArray_ITEMSIZE(flat)
    array = cnp.PyArray_SimpleNewFromData(3, sizes, cnp.PyArray_TYPE(flat), start)
    cnp.set_array_base(array, flat)
    return array


cdef enum:
    WEIGHTS, TAPE, SCRATCH, GRADIENT, KINDS


@cython.final
@cython.no_gc
cdef class Pool:
    """Of each kind the block that was freed last: new pages would cost as much as the work of a short call."""
    cdef void *block[KINDS]
    cdef size_t size[KINDS]

    def __dealloc__(self):
        for kind in range(KINDS):
            PyMem_RawFree(self.block[kind])

    cdef take(self, int kind, Py_ssize_t size, dtype):
        """1-D array of `size` elements on a 64-byte boundary, with anything in it."""
        cdef cnp.npy_intp shape[1]
        if size < 0:
            raise ValueError("a size does not fit into memory")
        cdef size_t wanted = size * dtype.itemsize + 64
        cdef Block block = Block.__new__(Block)
        if self.size[kind] < wanted or self.size[kind] / 2 > wanted:  # twice as much would be a waste
            PyMem_RawFree(self.block[kind])
            self.block[kind], self.size[kind] = PyMem_RawMalloc(wanted), wanted
            if self.block[kind] == NULL:
                self.size[kind] = 0
                raise MemoryError
        block.pool, block.kind, block.start, block.size = self, kind, self.block[kind], self.size[kind]
        self.block[kind], self.size[kind] = NULL, 0
        shape[0] = size
        array = cnp.PyArray_SimpleNewFromData(1, shape, dtype.num, <void *>((<size_t>block.start + 63) & ~<size_t>63))
        cnp.set_array_base(array, block)
        return array


@cython.final
@cython.no_gc
cdef class Block:
    """Goes back to its pool with the last array that uses it."""
    cdef Pool pool
    cdef int kind
    cdef void *start
    cdef size_t size

    def __dealloc__(self):
        if self.pool is not None:
            PyMem_RawFree(self.pool.block[self.kind])
            self.pool.block[self.kind], self.pool.size[self.kind] = self.start, self.size
