# Memory for the engine: on 64-byte boundaries, and what a network uses again and again. Part of _core.pyx.

cdef object view_of(cnp.ndarray base, char *start, int ndim, cnp.npy_intp *sizes):
    """An array of the base's type that lies in its memory; a third of what slicing and reshaping take."""
    array = cnp.PyArray_SimpleNewFromData(ndim, sizes, cnp.PyArray_TYPE(base), start)
    cnp.set_array_base(array, base)
    return array


def aligned(Py_ssize_t size, cnp.dtype dtype):
    """Zeroed 1-D array of `size` elements that starts on a 64-byte boundary."""
    if size < 0:
        raise ValueError("a size does not fit into memory")
    cdef cnp.npy_intp shape = size + 64 // dtype.itemsize
    raw = cnp.PyArray_ZEROS(1, &shape, dtype.num, 0)
    shape = size
    return view_of(raw, <char *>((<size_t>data(raw) + 63) & ~<size_t>63), 1, &shape)


def alike(a, cnp.ndarray b not None):
    """Whether a is an array of b's type and shape, just as C reads it."""
    return (type(a) is np_ndarray and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray>a) and cnp.PyArray_TYPE(<cnp.ndarray>a) == cnp.PyArray_TYPE(b)
            and cnp.PyArray_SAMESHAPE(<cnp.ndarray>a, b))


def parts_of(cnp.ndarray flat, Py_ssize_t lanes, list recurrent):
    """A flat state array in parts: for each recurrent layer a dict of views, such as h (cells, lanes, width).

    `recurrent` has for each layer how many cells it has and the width of each part."""
    cdef cnp.npy_intp sizes[3]
    cdef Py_ssize_t at = 0, item = cnp.PyArray_ITEMSIZE(flat)
    cdef list entries = []
    cdef dict parts
    sizes[1] = lanes
    for cells, widths in recurrent:
        parts = {}
        for part, width in (<dict>widths).items():
            sizes[0], sizes[2] = cells, width
            if at + sizes[0] * lanes * sizes[2] > cnp.PyArray_DIM(flat, 0):
                raise IndexError("a part of a state lies beyond its end")
            parts[part] = view_of(flat, <char *>cnp.PyArray_DATA(flat) + at * item, 3, sizes)
            at += sizes[0] * lanes * sizes[2]
        entries.append(parts)
    return entries


cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define fl_is_alone(o) 0
    #else
    #define fl_is_alone(o) (Py_REFCNT((PyObject *)(o)) == 1)
    #endif
    """
    bint fl_is_alone(void *)  # whether an object has one reference, and nobody else can make more


@cython.final
@cython.no_gc
cdef class Outputs:
    """Arrays for the outputs of steps: those given out before, once nobody has them any more.

    A new one would take a third of a short step. There are two, since a loop ``y = step(x)`` still has the last one."""
    cdef cnp.ndarray newer, older

    cdef bint fits(self, cnp.ndarray a, int ndim, const cnp.npy_intp *sizes, int typenum):
        """Whether `a` is as it was given out, and of this shape."""
        return (cnp.PyArray_NDIM(a) == ndim and cnp.PyArray_DIM(a, 0) == sizes[0] and cnp.PyArray_DIM(a, ndim - 1) == sizes[ndim - 1]
                and cnp.PyArray_TYPE(a) == typenum and cnp.PyArray_ISCARRAY(a) and cnp.PyArray_CHKFLAGS(a, cnp.NPY_ARRAY_OWNDATA))

    cdef cnp.ndarray take(self, int ndim, cnp.npy_intp *sizes, int typenum):
        """An array (sizes[0],) or (sizes[0], sizes[1]) with anything in it."""
        cdef cnp.ndarray a
        if fl_is_alone(<void *>self.newer) and self.fits(self.newer, ndim, sizes, typenum):
            return self.newer
        if fl_is_alone(<void *>self.older) and self.fits(self.older, ndim, sizes, typenum):
            a = self.older
        else:
            a = cnp.PyArray_SimpleNew(ndim, sizes, typenum)
        self.older, self.newer = self.newer, a
        return a


cdef enum:
    WEIGHTS, TAPE, SCRATCH, GRADIENT, KINDS


@cython.final
@cython.no_gc
cdef class Pool:
    """Of each kind the array that was freed last: new pages would cost as much as the work of a short call.

    They are NumPy's: on Linux it asks for huge pages where an array is large."""
    cdef list freed

    def __cinit__(self):
        self.freed = [None] * KINDS

    cdef take(self, int kind, Py_ssize_t size, cnp.dtype dtype):
        """1-D array of `size` elements on a 64-byte boundary, with anything in it."""
        cdef cnp.npy_intp shape[1]
        cdef cnp.ndarray memory = self.freed[kind]
        if size < 0:
            raise ValueError("a size does not fit into memory")
        cdef cnp.npy_intp wanted = size * dtype.itemsize + 64
        self.freed[kind] = None
        if memory is None or cnp.PyArray_SIZE(memory) < wanted or cnp.PyArray_SIZE(memory) // 2 > wanted:  # twice as much would be a waste
            memory = None
            memory = cnp.PyArray_EMPTY(1, &wanted, cnp.NPY_UINT8, 0)
        cdef Block block = Block.__new__(Block)
        block.pool, block.kind, block.memory = self, kind, memory
        shape[0] = size
        array = cnp.PyArray_SimpleNewFromData(1, shape, dtype.num, <void *>((<size_t>data(memory) + 63) & ~<size_t>63))
        cnp.set_array_base(array, block)
        return array


@cython.final
@cython.no_gc
cdef class Block:
    """Goes back to its pool with the last array that uses it."""
    cdef Pool pool
    cdef int kind
    cdef cnp.ndarray memory

    def __dealloc__(self):
        if self.pool is not None:
            self.pool.freed[self.kind] = self.memory
