// threadpool.h of the wheel includes this header, which the wheel does not hold. These names are all it needs of it.
#pragma once
typedef struct pthreadpool* pthreadpool_t;
extern "C" void pthreadpool_destroy(pthreadpool_t);
