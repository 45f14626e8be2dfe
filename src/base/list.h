/* Intrusive doubly linked list. A zeroed node is in no list; a head must be initialised. */
#ifndef BASE_LIST_H
#define BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
    struct list *next, *prev;
};

static inline void list_init(struct list *head)
{
    head->next = head->prev = head;
}
static inline bool list_is_empty(const struct list *head)
{
    return head->next == head;
}
static inline bool list_is_linked(const struct list *node)
{
    return node->next != NULL;
}
static inline void list_append(struct list *head, struct list *node)
{
    node->prev = head->prev;
    node->next = head;
    head->prev->next = node;
    head->prev = node;
}
static inline void list_prepend(struct list *head, struct list *node)
{
    list_append(head->next, node); /* in front of the first */
}
/* Takes a node out; does nothing when it is in no list. */
static inline void list_remove(struct list *node)
{
    if (node->next) {
        node->next->prev = node->prev;
        node->prev->next = node->next;
        node->next = node->prev = NULL;
    }
}
/* Takes the first node out; NULL when the list is empty. */
static inline struct list *list_take_first(struct list *head)
{
    struct list *node = head->next;
    if (node == head) {
        return NULL;
    }
    list_remove(node);
    return node;
}
#define container_of(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))
#define LIST_FOR(node, head) for (struct list *node = (head)->next; node != (head); node = node->next)
/* The loop body may remove the current node. */
#define LIST_FOR_SAFE(node, head) \
    for (struct list *node = (head)->next, *node##_next; \
         node != (head) && (node##_next = node->next, true); node = node##_next)

#endif
